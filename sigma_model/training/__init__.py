"""The pretraining loop: token shards in, a Hugging Face checkpoint out.
One door: ``python -m sigma_model.training CONFIG [--set key=value]``.
Runs with torch, numpy, pyarrow, safetensors, transformers and PyYAML; no Ray, no pipelines.
The order of the data is a pure function of (dataset fingerprint, seed); a killed run goes on
from its last complete checkpoint exactly where an unbroken one would be."""
