# The stages of a speech recognition recipe, read by egs/<corpus>/run.sh, which sets:
#   corpus       its name in asrkit prepare
#   recipe_dir   the recipe's folder
#   corpus_dir   the release (empty: --corpus-dir must be given)
#   config       the experiment's YAML
#   processes    training processes on this machine
#   last_stage   if it has more stages than these six
#   unlabelled   name in asrkit prepare of speech that is used without transcripts
#   splits       an array of splits to decode (dev test); a test set that the data lack is skipped
#   searches     an array of searches (greedy beam)
# and may define functions prepare_data, called instead of asrkit prepare, and scoring_options SPLIT, which prints further
# options of asrkit score, one per line; and more_stages, lines of --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
stage=1
stop_stage=${last_stage:-6}
again=()
force_from=99
num_jobs=2
data_dir=$recipe_dir/data
exp_dir=
nbest_model=
nbest=${nbest:-30}
unlabelled=${unlabelled:-}
unlabelled_corpus_dir=
overrides=()
[ -n "${splits+set}" ] || splits=(dev test)
[ -n "${searches+set}" ] || searches=(greedy beam)
miniature=

usage() {
  cat <<EOF
Usage: $0 [options] [key=value ...]

Stages: 1 prepare and check the corpus   2 features and tokenizer   3 train
        4 decode ${splits[*]}   5 score   6 export
${more_stages:-}
Each stage skips what is done.

  --stage N         first stage (1); if given, decoding, scoring and export run again
  --stop-stage N    last stage ($stop_stage)
  --force-from N    rerun stage N and later ones, even if done; an existing training is first moved to EXP_DIR.1
  --num-jobs N      processes that read audio in stages 1 and 2 ($num_jobs)
  --corpus NAME     the corpus, as named by asrkit prepare ($corpus)
  --corpus-dir DIR  the corpus' release (${corpus_dir:-required})
  --data-dir DIR    prepared data ($data_dir)
  --unlabelled NAME speech for bl_just.loss, without transcripts, as named by asrkit prepare (${unlabelled:-none});
                    it goes to <data-dir>_unlabelled
  --unlabelled-corpus-dir DIR  its release (that of --corpus-dir)
  --exp-dir DIR     the experiment ($recipe_dir/exp/<name of the configuration>)
  --config FILE     the experiment's YAML ($config)
  --processes N     training processes on this machine ($processes)
  --nbest-model F   decode the training set with this model first, for a configuration with n-best label smoothing
  --nbest N         hypotheses per utterance in these lists ($nbest)
  --skip-bad        exclude bad utterances instead of stopping
  --channel CHOICE, --text-normalization RULES, --min-seconds S, --max-seconds S
                    how stage 1 reads audio and transcripts: see asrkit prepare --help
  --miniature       run all stages on a few utterances in the corpus' layout, with a tiny model
  key=value         overrides of the configuration, such as train.num_epochs=10
EOF
}

preparing=() # options of asrkit prepare
of_stage_1=
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) usage; exit 0 ;;
    --skip-bad) preparing+=("$1"); shift; continue ;;
    --miniature) miniature=yes; shift; continue ;;
    --channel|--text-normalization|--min-seconds|--max-seconds|--stage|--stop-stage|--force-from|--num-jobs|--corpus|--corpus-dir|--data-dir|--exp-dir|--config|--processes|--nbest-model|--nbest|--unlabelled|--unlabelled-corpus-dir)
      [ $# -ge 2 ] || { echo "$0: $1 needs a value" >&2; exit 2; } ;;&
    --channel|--text-normalization|--min-seconds|--max-seconds) preparing+=("$1" "$2"); of_stage_1=$1; shift 2 ;;
    --stage) stage=$2; again=(--force); shift 2 ;;
    --stop-stage) stop_stage=$2; shift 2 ;;
    --force-from) force_from=$2; shift 2 ;;
    --num-jobs) num_jobs=$2; shift 2 ;;
    --corpus) corpus=$2; shift 2 ;;
    --corpus-dir) corpus_dir=$2; shift 2 ;;
    --data-dir) data_dir=$2; shift 2 ;;
    --exp-dir) exp_dir=$2; shift 2 ;;
    --config) config=$2; shift 2 ;;
    --processes) processes=$2; shift 2 ;;
    --nbest-model) nbest_model=$2; shift 2 ;;
    --nbest) nbest=$2; shift 2 ;;
    --unlabelled) unlabelled=$2; shift 2 ;;
    --unlabelled-corpus-dir) unlabelled_corpus_dir=$2; shift 2 ;;
    decode.method=*) echo "$0: stage 4 decodes with greedy and with beam search; asrkit decode takes $1" >&2; exit 2 ;;
    *=*) overrides+=("$1"); shift ;;
    *) echo "$0: unknown option '$1'" >&2; usage >&2; exit 2 ;;
  esac
done
for number in "$stage" "$stop_stage" "$processes" "$force_from" "$num_jobs" "$nbest"; do
  [[ $number =~ ^[0-9]+$ ]] || { echo "$0: '$number' is not a whole number" >&2; exit 2; }
done
if [ -n "$of_stage_1" ] && [ "$stage" -gt 1 ]; then
  echo "$0: $of_stage_1 belongs to stage 1, which --stage $stage skips" >&2
  exit 2
fi
if [ -n "$miniature" ]; then
  name=$(basename "$recipe_dir")
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  "$root/tools/setup.sh"
  corpus_dir=$folder/corpus
  data_dir=$folder/data
  exp_dir=$folder/exp
  searches=(beam)
  export OMP_NUM_THREADS=1  # more threads slow tiny models down
  (cd "$root" && .venv/bin/python -m tests.corpora.miniature "$name" "$corpus_dir" "$config") > "$folder/overrides"
  mapfile -t tiny < "$folder/overrides"
  overrides=("${tiny[@]}" ${overrides[@]+"${overrides[@]}"})
fi
[ -n "$exp_dir" ] || exp_dir=$recipe_dir/exp/$(basename "$config" .yaml)
[ -n "$corpus_dir" ] || { echo "$0: --corpus-dir is needed" >&2; exit 2; }

"$root/tools/setup.sh"
asrkit=$root/.venv/bin/asrkit
export ASRKIT_FORCE_OPTION="--force-from N"  # as messages call it
settings=(--config "$config" ${overrides[@]+"${overrides[@]}"})

unlabelled_dir=${data_dir%/}_unlabelled
[ -n "$unlabelled_corpus_dir" ] || unlabelled_corpus_dir=$corpus_dir

# Sets "force" to what makes the commands of a stage run again.
stage_force() {
  force=()
  if [ "$1" -ge "$force_from" ]; then force=(--force); fi
}
runs() { stage_force "$1"; [ "$stage" -le "$1" ] && [ "$1" -le "$stop_stage" ]; }

if runs 1; then
  if declare -F prepare_data > /dev/null; then
    prepare_data
  else
    "$asrkit" prepare "$corpus" --corpus-dir "$corpus_dir" --data-dir "$data_dir" \
      --num-jobs "$num_jobs" ${preparing[@]+"${preparing[@]}"} ${force[@]+"${force[@]}"}
  fi
  if [ -n "$unlabelled" ]; then
    "$asrkit" prepare "$unlabelled" --unlabelled --corpus-dir "$unlabelled_corpus_dir" --data-dir "$unlabelled_dir" \
      --num-jobs "$num_jobs" ${preparing[@]+"${preparing[@]}"} ${force[@]+"${force[@]}"}
  fi
fi
if runs 2; then
  "$asrkit" tokenizer --data-dir "$data_dir" ${force[@]+"${force[@]}"} "${settings[@]}"
  "$asrkit" features --data-dir "$data_dir" --num-jobs "$num_jobs" ${force[@]+"${force[@]}"} "${settings[@]}"
  if [ -n "$unlabelled" ]; then
    "$asrkit" features --data-dir "$unlabelled_dir" --num-jobs "$num_jobs" ${force[@]+"${force[@]}"} \
      "${settings[@]}" "features.speed_factors=[1.0]" "features.tempo_factors=[]"
  fi
fi
if [ -n "$unlabelled" ]; then
  settings+=("bl_just.unlabelled_dir=$unlabelled_dir")
fi
if runs 3 && [ "$force_from" -le 3 ] && [ -e "$exp_dir" ]; then
  number=1
  while [ -e "${exp_dir%/}.$number" ]; do number=$((number + 1)); done
  mv "$exp_dir" "${exp_dir%/}.$number"
  echo "moved $exp_dir to ${exp_dir%/}.$number" >&2
fi
if [ -n "$nbest_model" ]; then
  lists=$exp_dir/nbest_train.jsonl.gz
  if runs 3; then
    "$asrkit" nbest --model "$nbest_model" --data-dir "$data_dir" --split train --output "$lists" \
      decode.method=beam "decode.beam=$nbest" "decode.nbest=$nbest"
  fi
  settings+=("nbest_label_smoothing.hypotheses=$lists")
fi
if runs 3; then
  "$asrkit" train --data-dir "$data_dir" --exp-dir "$exp_dir" --processes "$processes" "${settings[@]}"
fi
for split in "${splits[@]}"; do
  if [ -f "$data_dir/splits.json" ] && ! grep -q "^  \"$split\": {" "$data_dir/splits.json"; then
    echo "note: $data_dir has no $split" >&2
    continue
  fi
  for method in "${searches[@]}"; do
    out=$exp_dir/decode_${split}_$method
    if runs 4; then
      "$asrkit" decode --model "$exp_dir/averaged.safetensors" --data-dir "$data_dir" --split "$split" \
        --out-dir "$out" ${again[@]+"${again[@]}"} ${force[@]+"${force[@]}"} "${settings[@]}" --method $method
    fi
    if runs 5; then
      official=()
      if declare -F scoring_options > /dev/null; then
        mapfile -t official < <(scoring_options "$split")
      fi
      "$asrkit" score --ref "$out/ref.trn" --hyp "$out/hyp.trn" ${official[@]+"${official[@]}"} \
        ${again[@]+"${again[@]}"} ${force[@]+"${force[@]}"}
    fi
  done
done
if runs 6; then
  "$asrkit" export --model "$exp_dir/averaged.safetensors" --output "$exp_dir/model.safetensors" \
    ${again[@]+"${again[@]}"} ${force[@]+"${force[@]}"}
  "$asrkit" report "$exp_dir"
fi
