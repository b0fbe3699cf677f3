#!/bin/sh
# Install into a virtual environment: sh tools/install.sh VENV TARGET, as '.venv' '.[dev]'.
set -eu
venv=$1 target=$2
python=${PYTHON:-python3}
"$python" - <<'PY'
import shutil, sys
if not (3, 11) <= sys.version_info[:2] <= (3, 12):
    sys.exit(f"CorpusMill needs Python 3.11 or 3.12, this is {sys.version.split()[0]}: make PYTHON=python3.11 ...")
free = shutil.disk_usage(".").free
if free < 8_000_000_000:
    print(f"warning: {free / 1e9:.1f} GB are free here; a fresh install wants up to 8", file=sys.stderr)
PY
echo "Installing into $venv: about 300 packages' worth of wheels, 2 GB (5 GB with the test tools), 2 to 4 minutes."
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip install --quiet --progress-bar off"
# a CPU build of torch first (unless TORCH is empty): from the package index in use, else from PyTorch's own
if [ -n "$TORCH" ] && ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    $pip "$TORCH+cpu" 2>/dev/null || $pip "$TORCH" --index-url "$TORCH_INDEX" 2>/dev/null || $pip "$TORCH"
fi
$pip -e "$target"
# they come with vLLM, do not load against a CPU build of torch, and break `import transformers`
case $("$venv/bin/python" -c 'import torch; print(torch.__version__)') in
*+cpu) "$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null || true ;;
esac
"$venv/bin/corpusmill" --help >/dev/null
echo "Compiling the text kernels, once a machine ..."
"$venv/bin/python" -m kernels.text.warm
echo "Installed."
