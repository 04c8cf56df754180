"""Training on megatron; `mugv.dit` comes first, so that it decides how megatron is imported."""

import mugv.dit as _dit  # noqa: F401
