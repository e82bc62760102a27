# The test sets of telephone speech, Hub5'00, Hub5'01 and RT'03, their references and NIST's rules for them.
splits=(dev eval2000 hub5_01 rt03)

# Prints the options of asrkit score for NIST's rates of a test set, if its references and rules exist.
scoring_options() {
  local references rules
  case $1 in
    eval2000) references=$(found LDC2002T43 'hub5e00.english.*.stm'); rules=$(found LDC2002T43 '*_hub5.glm') ;;
    hub5_01) references=$(found LDC2002S13 'hub5e01*.stm'); rules=$(found LDC2002S13 '*.glm') ;;
    rt03) references=$(found LDC2007S10/data/references/eval03/english/cts '*.stm')
          rules=$(found LDC2007S10/data/trans_rules 'en*.glm') ;;
    *) return ;;
  esac
  [ -n "$references" ] || return 0
  if [ -z "$rules" ]; then
    echo "note: there are no rules (glm) for $1: NIST's rates are not computed" >&2
    return
  fi
  while read -r path; do printf '%s\n' --stm "$path"; done <<< "$references"
  printf '%s\n' --glm "$(head -n 1 <<< "$rules")"
}

found() {
  [ ! -d "$corpus_dir/$1" ] || find -L "$corpus_dir/$1" -name "$2" -type f | sort
}
