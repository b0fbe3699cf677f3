"""The pretraining loop: token shards in, a Hugging Face checkpoint out.
One door: ``python -m sigma_model.training CONFIG [--set key=value]``, for one process and for each of
torchrun's or Ray Train's. Runs with torch, numpy, pyarrow, safetensors, transformers and PyYAML; no Ray.
The order of the data is a pure function of (dataset fingerprint, seed); a killed run goes on from its
last complete checkpoint exactly where an unbroken one would be, on any number of ranks."""
