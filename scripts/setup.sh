# Sourced by demo.sh and check.sh: a virtual environment in .venv with the package; $extras, such as
# [dev,docs], are installed too.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "lgmnet needs Python 3.11 or newer; name one with PYTHON=/path/to/python" >&2
    exit 1
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
# Install again only if the requirements have changed.
wanted=$(cat pyproject.toml constraints.txt | sha256sum)
stamp=.venv/installed${extras:-}
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing into .venv: some minutes, and gigabytes with the CUDA build of PyTorch"
    .venv/bin/pip install --disable-pip-version-check -c constraints.txt -e ".${extras:-}"
    echo "$wanted" > "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
