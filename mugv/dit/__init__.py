"""MUG-DiT on megatron's parallel layers."""

from mugv.dit import megatron_jit

megatron_jit.install()
