#!/usr/bin/env bash
# What only a CUDA card can show: the tests marked cuda, losses, search and training against torchaudio on the same card,
# and, with --corpus-dir, a training of mini LibriSpeech. Without a card it runs its CPU half and says what it skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<EOF
Usage: $0 [--wheels DIR] [--output DIR] [--corpus-dir DIR] [--minutes N]
       $0 --pack DIR [--python VERSION]

  --wheels DIR      on a machine without package registries: install DIR's wheels next to the torch of PYTHON (python3)
  --output DIR      where results go (exp/gpu)
  --corpus-dir DIR  mini LibriSpeech, for the training
  --minutes N       stop the training after N minutes (8); run again to resume
  --pack DIR        download these wheels, on a machine with registries
  --python VERSION  Python of the machine without registries, for --pack (3.12)
EOF
}

wheels= output=exp/gpu corpus_dir= minutes=8 pack= python_version=3.12
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) usage; exit 0 ;;
    --wheels|--output|--corpus-dir|--minutes|--pack|--python)
      [ $# -ge 2 ] || { echo "$0: $1 needs a value" >&2; exit 2; } ;;&
    --wheels) wheels=$2 ;;
    --output) output=$2 ;;
    --corpus-dir) corpus_dir=$2 ;;
    --minutes) minutes=$2 ;;
    --pack) pack=$2 ;;
    --python) python_version=$2 ;;
    *) echo "$0: unknown option '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift 2
done

if [ -n "$pack" ]; then
  # What a torch environment with the usual scientific packages lacks.
  platforms=()
  for tag in manylinux1 manylinux2014 manylinux_2_{17,24,27,28,31,34}; do platforms+=(--platform "${tag}_x86_64"); done
  python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$python_version" \
    --implementation cp "${platforms[@]}" -d "$pack" \
    lhotse omegaconf soundfile cffi pycparser cytoolz intervaltree audioread jiwer rapidfuzz kaldi-native-fbank
  du -sh "$pack"
  exit 0
fi

if [ -n "$wheels" ] && [ ! -e .venv ]; then
  python=${PYTHON:-python3}
  "$python" -m venv --without-pip .venv
  site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
  # The machine's own packages after ours, and the project itself.
  { pwd; "$python" -c 'import site; print(*site.getsitepackages(), sep="\n")'; } > "$site/machine.pth"
  printf '#!%s\nfrom asrkit.cli.main import main\nif __name__ == "__main__":\n    main()\n' "$PWD/.venv/bin/python" > .venv/bin/asrkit
  chmod +x .venv/bin/asrkit
  cat pyproject.toml setup.py asrkit/quantization/kernels/*.c > .venv/.asrkit-installed  # as in setup.sh
fi
tools/setup.sh
mkdir -p "$output"

echo "== tests marked cuda"
grep -rl "mark.cuda" tests | xargs .venv/bin/python -m pytest -p no:cacheprovider -m cuda 2>&1 | tee "$output/tests.txt"
echo "== losses, search and training"
.venv/bin/python tools/bench/card.py --json | tee "$output/card.txt"
if ! .venv/bin/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "check_gpu: no CUDA card: the tests marked cuda and the training of mini LibriSpeech were skipped"
elif [ -z "$corpus_dir" ]; then
  echo "check_gpu: no --corpus-dir: the training of mini LibriSpeech was skipped"
else
  echo "== mini LibriSpeech"
  run=(egs/mini_librispeech/run.sh --corpus-dir "$corpus_dir" --data-dir "$output/data" --exp-dir "$output/exp"
    --processes 1)
  "${run[@]}" --stop-stage 2
  timeout --signal TERM "${minutes}m" "${run[@]}" --stage 3 --stop-stage 3 train.device=cuda train.num_workers=4 || {
    code=$?
    [ "$code" -eq 124 ] || exit "$code"
    echo "check_gpu: stopped after $minutes minutes; run again to resume"
  }
fi
