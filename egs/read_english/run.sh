#!/usr/bin/env bash
# speechocean762 and the LibriSpeech subset as one training set, and what language models add. --help lists stages.
set -euo pipefail
recipe_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
corpus="speechocean762 librispeech_subset"
corpus_dir=
config=$recipe_dir/conf/conformer.yaml
processes=1
last_stage=9
more_stages='        7 language models                8 weights on each dev      9 each test with each fusion
        --corpus-dir holds speechocean762/, librispeech/ and lm_text/novels.txt.gz'

prepare_data() {
  for part in $corpus; do
    "$asrkit" prepare "$part" --corpus-dir "$corpus_dir/${part%_subset}" --data-dir "$data_dir/$part" \
      --num-jobs "$num_jobs" ${preparing[@]+"${preparing[@]}"} ${force[@]+"${force[@]}"}
  done
  "$asrkit" combine "$data_dir/speechocean762" "$data_dir/librispeech_subset" --data-dir "$data_dir" \
    ${force[@]+"${force[@]}"}
}

source "$recipe_dir/../../tools/recipe.sh"

transcripts=$data_dir/train.jsonl.gz
if runs 7; then
  "$asrkit" train-lm --data-dir "$data_dir" --text "$transcripts" --dev-text "$data_dir/dev.jsonl.gz" \
    --exp-dir "$exp_dir/source_lm" --config "$recipe_dir/conf/source_lm.yaml"
  "$asrkit" train-lm --data-dir "$data_dir" --text "$corpus_dir/lm_text/novels.txt.gz" --text "$transcripts" \
    --dev-text "$data_dir/dev.jsonl.gz" --exp-dir "$exp_dir/target_lm" --config "$recipe_dir/conf/target_lm.yaml"
fi

target=decode.fusion.target_lm=$exp_dir/target_lm/best.safetensors
beam=(decode.method=beam decode.beam=16 decode.nbest=16)
for part in $corpus; do
  if runs 8; then
    "$asrkit" features --data-dir "$data_dir/$part" ${force[@]+"${force[@]}"} "${settings[@]}" \
      features.speed_factors=[1.0]
  fi
  for fusion in none shallow internal density; do
    case $fusion in
      none) options=() ;;
      shallow) options=("$target") ;;
      internal) options=("$target" decode.fusion.source_lm=internal) ;;
      density) options=("$target" "decode.fusion.source_lm=$exp_dir/source_lm/best.safetensors") ;;
    esac
    for split in dev test; do
      out=$exp_dir/fusion_${part}_${split}_$fusion
      tune=()
      if [ $split = dev ]; then
        runs 8 || continue
        [ $fusion = none ] || tune=(--tune-fusion)
      else
        runs 9 || continue
        [ $fusion = none ] || tune=(--fusion-of "$exp_dir/fusion_${part}_dev_$fusion")
      fi
      "$asrkit" decode --model "$exp_dir/averaged.safetensors" --data-dir "$data_dir/$part" --split $split \
        --out-dir "$out" ${again[@]+"${again[@]}"} ${force[@]+"${force[@]}"} ${tune[@]+"${tune[@]}"} "${beam[@]}" ${options[@]+"${options[@]}"}
      "$asrkit" score --ref "$out/ref.trn" --hyp "$out/hyp.trn" ${again[@]+"${again[@]}"} ${force[@]+"${force[@]}"}
    done
  done
done
