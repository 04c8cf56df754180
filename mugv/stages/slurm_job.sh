#!/bin/bash
# The run of the recipe "@name@" as Slurm jobs, written by `mugv slurm`.
#   bash job.sh               hands the jobs in, each after the one before
#   bash job.sh --test-only   asks Slurm whether it would take them
# Inside the jobs the same script does the work.
@variables@

work() {
  set +e
  @setup@
  child= asked= stopped= code=0
  trap 'asked=1 stopped=1; if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; fi' TERM
  for node in "$@"; do
    if [ -n "$stopped" ]; then code=@stopped@; break; fi
    @python@ -m mugv.stages.slurm_task "$node" &
    child=$!
    # A signal ends `wait`, not what it waits for.
    while :; do asked=; wait "$child"; code=$?; if [ -z "$asked" ]; then break; fi; done
    child=
    if [ "$code" != 0 ]; then break; fi
  done
  case $code in @again@) again;; esac
  exit "$code"
}

again() {
  id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
  id=${id:-$SLURM_JOB_ID}
  # A job that was preempted is put back by Slurm itself, and one that was cancelled must end: neither is RUNNING any more.
  if [ "$(squeue --noheader --jobs="$id" --format=%T)" != RUNNING ]; then return; fi
  if [ "${SLURM_RESTART_COUNT:-0}" -ge @restarts@ ]; then
    echo "mugv: not tried again after $SLURM_RESTART_COUNT restarts (resources.slurm.restarts)" >&2
    return
  fi
  echo "mugv: exit code $code, back into the queue"
  scontrol requeue "$id"
  sleep 60
}

case ${1-} in
  --job) shift; work "$@";;
  --shards)
    nodes=()
    for ((i = SLURM_ARRAY_TASK_ID; i < $2; i += SLURM_ARRAY_TASK_COUNT)); do nodes+=("$3-$i"); done
    work "${nodes[@]}";;
  "" | --test-only) ;;
  *) echo "usage: bash $0 [--test-only]" >&2; exit 2;;
esac

set -euo pipefail
test=${1-}
export MUGV_RUN=${MUGV_RUN:-$(date -u +%Y%m%d-%H%M%S)-$(printf %04x $RANDOM)}
folder=$MUGV_STATE/runs/$MUGV_RUN
ids=()
trap 'if [ ${#ids[@]} -gt 0 ]; then scancel "${ids[@]}"; rm -rf "$folder"; fi' ERR

submit() {
  local name=$1 options=() after
  shift
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  if [ -n "$test" ]; then sbatch --test-only "${options[@]}" "$0" "$@"; return; fi
  if [ ${#ids[@]} -gt 0 ]; then
    after=afterok:${ids[-1]}
    # The last one comes whatever happened to the others.
    if [ "$name" = finish ]; then after=afterany$(printf :%s "${ids[@]}"); fi
    options+=(--dependency="$after" --kill-on-invalid-dep=yes)
  fi
  ids+=("$(sbatch --parsable --job-name="mugv-$name" --requeue --open-mode=append --signal=B:TERM@@signal@ \
    --output="$folder/slurm/%x-%j.log" "${options[@]}" "$0" "$@" | cut -d';' -f1)")
  echo "job ${ids[-1]}  $name"
}

if [ -z "$test" ]; then
  mkdir -p "$folder/slurm"
  cat > "$folder/recipe.json" <<'RECIPE'
@recipe@
RECIPE
  echo "run $MUGV_RUN"
fi
@jobs@
