#!/usr/bin/env bash
# Makes .venv-peers: this project's environment with the searches that tools/bench/decode.py
# compares with. Peers that pin too much are installed without their dependencies. Prints nothing when ready.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
env=.venv-peers
tools/setup.sh
[ -f "$env/.ready" ] && cmp -s tools/bench/peers.sh "$env/.ready" && exit 0
echo "peers: installing ESPnet and SpeechBrain into $PWD/$env (once, a few minutes)" >&2
[ -x "$env/bin/python" ] || .venv/bin/python -m venv "$env"
site() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
echo "import site; site.addsitedir('$(site .venv/bin/python)')" > "$(site "$env/bin/python")/asrkit-environment.pth"
"$env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
  espnet==202511 typeguard humanfriendly \
  speechbrain==1.1.0 hyperpyyaml ruamel.yaml ruamel.yaml.clib joblib huggingface_hub scipy requests tqdm \
  charset-normalizer idna certifi hf-xet
cp tools/bench/peers.sh "$env/.ready"
