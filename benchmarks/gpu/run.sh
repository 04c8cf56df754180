#!/usr/bin/env bash
# Every check and figure that needs a GPU, in one command of at most 9 minutes, on a machine without network: see README.md beside this.
#   bash benchmarks/gpu/run.sh                    all parts; results.jsonl, summary.md and log.txt in $OUT (build/gpu)
#   bash benchmarks/gpu/run.sh vae sampler        these parts alone
#   bash benchmarks/gpu/run.sh vae=200            another limit, in seconds
#   bash benchmarks/gpu/run.sh --rehearse         the same on a CPU at tiny sizes: its figures mean nothing
# Exit code: 0 every part passed, 1 some did not, 2 nothing could be run (one line says why).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command="bash benchmarks/gpu/run.sh $*"
python=${PYTHON:-python3} out=${OUT:-build/gpu} kit=${MUGV_GPU_KIT:-.gpu-kit}
total=${MUGV_GPU_SECONDS:-540} reserve=6  # seconds of the whole command; of them for ending a part that was cut and for the summary

declare -A limit=([tests]=150 [dit-sdpa]=100 [dit-varlen]=100 [vae]=110 [memory]=80 [sampler]=110 [dit-flash]=100 [dit-te]=100)
order=(tests dit-sdpa dit-varlen vae memory sampler dit-flash dit-te)
chosen=() rehearse=()
for given in "$@"; do
  name=${given%%=*}
  if [[ $given == --rehearse ]]; then rehearse=(--rehearse)
  elif [[ -z ${limit[${name:-none}]:-} || ($given == *=* && ! ${given#*=} =~ ^[0-9]+$) ]]; then
    echo "error: $given is neither --rehearse nor one of ${order[*]}, or such a part=seconds" >&2
    exit 2
  elif [[ $given == *=* ]]; then limit[$name]=${given#*=}
  else chosen+=("$name"); fi
done
((${#chosen[@]})) || chosen=("${order[@]}")

command -v "$python" > /dev/null || { echo "error: there is no $python; PYTHON names another one" >&2; exit 2; }
site=$(mktemp -d) start=150
trap 'rm -rf "$site"' EXIT
timeout "$start" "$python" -m benchmarks.gpu.kit --kit "$kit" install "$site" || exit 2
export PYTHONPATH=$site:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
export GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo  # one process, on a machine that may have no other interface
mkdir -p "$out"
rm -f "$out"/{results.jsonl,summary.md,log.txt}
timeout "$start" "$python" -m benchmarks.gpu.parts machine "$out/results.jsonl" --command "$command" "${rehearse[@]}" || exit 2

failed=0
for part in "${chosen[@]}"; do
  left=$((total - reserve - SECONDS)) began=$SECONDS
  seconds=$((limit[$part] < left ? limit[$part] : left))
  if ((seconds < 1)); then status="no time left" seconds=0
  else
    timeout --kill-after=2 "$seconds" "$python" -m benchmarks.gpu.parts "$part" "$out/results.jsonl" "${rehearse[@]}" >> "$out/log.txt" 2>&1
    case $? in 0) status=passed ;; 124 | 137) status="cut at its limit" ;; *) status=failed ;; esac
  fi
  [[ $status == passed ]] || failed=1
  took=$((SECONDS - began))
  printf '{"part": "%s", "status": "%s", "seconds": %d, "limit": %d}\n' "$part" "$status" "$took" "$seconds" >> "$out/results.jsonl"
  echo "$part: $status after $took of $seconds s"
  [[ $status != failed ]] || tail -n 5 "$out/log.txt"
  "$python" -m benchmarks.gpu.summary "$out"
done
echo "$out/summary.md, $SECONDS s in all"
exit $failed
