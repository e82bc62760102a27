# The one stage of a study's recipe, read by egs/<study>/run.sh, which sets:
#   study        its name
#   recipe_dir   the recipe's folder
# and may set:
#   command      the subcommands that run it
#   more_options lines of --help on further options, which are passed on with their values
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out_dir=$recipe_dir/exp
options=()
[ -n "${command+set}" ] || command=(study "$study")
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help)
      echo "Usage: $0 [--out-dir DIR ($out_dir)] [--full, for the paper's scale]"
      [ -z "${more_options:-}" ] || echo "$more_options"
      exit 0 ;;
    --out-dir) [ $# -ge 2 ] || { echo "$0: --out-dir needs a value" >&2; exit 2; }; out_dir=$2; shift 2 ;;
    --full) options+=(--full); shift ;;
    --*)
      [[ "${more_options:-}" == *"$1 "* ]] || { echo "$0: unknown option '$1'" >&2; exit 2; }
      [ $# -ge 2 ] || { echo "$0: $1 needs a value" >&2; exit 2; }
      options+=("$1" "$2"); shift 2 ;;
    *=*) options+=("$1"); shift ;;
    *) echo "$0: unknown option '$1'" >&2; exit 2 ;;
  esac
done
"$root/tools/setup.sh"
exec "$root/.venv/bin/asrkit" "${command[@]}" --out-dir "$out_dir" ${options[@]+"${options[@]}"}
