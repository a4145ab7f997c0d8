#!/usr/bin/env bash
# The check step of action.yml: run `edgeprune check`, write the job summary, keep one comment on the pull request up
# to date, and end with the check's own exit code. Everything comes from the environment; see action.yml.
set -uo pipefail

# shellcheck source=comment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/comment.sh"

finish() {
  printf 'exit-code=%s\nreport=%s\ncomment-folder=%s\n' "$1" "$2" "${2:+$scratch/comment}" >>"$GITHUB_OUTPUT"
  exit "$1"
}

# Print a file of untrusted text (names of models) with no line of it taken as a command by the runner.
show() {
  local token
  token=edgeprune-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  printf '::stop-commands::%s\n' "$token"
  cat -- "$1"
  printf '\n::%s::\n' "$token"
}

# Each line is a path as it stands, or else a pattern that must match something.
find_files() {
  local line matches IFS=
  shopt -s nullglob
  shopt -s globstar 2>/dev/null || annotate warning '** is no pattern for this bash; it needs version 4'
  while IFS= read -r line || [[ -n $line ]]; do
    line=${line%$'\r'}
    line=${line#"${line%%[![:space:]]*}"}
    line=${line%"${line##*[![:space:]]}"}
    [[ -n $line ]] || continue
    matches=("$line")
    if [[ ! -e $line && $line == *[*?[]* ]]; then
      # shellcheck disable=SC2206 # the pattern is to be expanded; the empty IFS keeps blanks in names together
      matches=($line)
    fi
    if ((${#matches[@]} == 0)); then
      annotate error "no file matches $line"
      finish 4 ''
    fi
    files+=("${matches[@]}")
  done <<<"${INPUT_FILES:-}"
}

scratch=$(mktemp -d "${RUNNER_TEMP:-/tmp}/edgeprune-check.XXXXXX") || exit 3
report=$scratch/report.md errors=$scratch/errors.txt output=$scratch/output.txt

if ! cd -- "${INPUT_WORKING_DIRECTORY:-.}"; then
  annotate error "the working directory ${INPUT_WORKING_DIRECTORY:-.} does not exist"
  finish 2 ''
fi

mode=$(comment_mode "${INPUT_COMMENT:-}")
if [[ -z $mode ]]; then
  annotate error "comment is always, on-change, on-failure or never, not ${INPUT_COMMENT:-}"
  finish 2 ''
fi

files=()
find_files
arguments=(check --format markdown --output "$report")
[[ -z ${INPUT_CONFIG:-} ]] || arguments+=(--config "$INPUT_CONFIG")
[[ -z ${INPUT_HISTORY:-} ]] || arguments+=(--history "$INPUT_HISTORY")
[[ -z ${INPUT_BASELINE:-} ]] || arguments+=(--baseline "$INPUT_BASELINE")
"${EDGEPRUNE:-edgeprune}" "${arguments[@]}" -- ${files[@]+"${files[@]}"} >"$output" 2>"$errors"
code=$?

show "$output"
show "$errors"
if [[ ! -s $report ]]; then
  {
    printf '### edgeprune check ended with exit code %s\n\n' "$code"
    sed 's/^/    /' "$errors"
  } >"$report"
fi
cat -- "$report" >>"$GITHUB_STEP_SUMMARY"
if ((code > 1)); then
  annotate error "$(tail -n 1 "$errors") (exit code $code)"
elif ((code == 1)); then
  annotate error 'over budget; see the job summary'
fi
leave_comment "$report" "$code"
if [[ $mode != never && ${GITHUB_EVENT_NAME:-} == pull_request && ${HEAD_REPOSITORY:-$GITHUB_REPOSITORY} != "$GITHUB_REPOSITORY" ]]; then
  annotate notice 'a pull request from a fork may not comment: keep the output comment-folder for a workflow_run'
elif [[ $mode != never ]]; then
  post_comment "$report" "$code" "$mode"
fi
finish "$code" "$report"
