#!/usr/bin/env bash
# The check step of action.yml: run `edgeprune check`, write the job summary, keep one comment on the pull request up
# to date, and end with the check's own exit code. Everything comes from the environment; see action.yml.
set -uo pipefail

# A message for the log's margin. Line ends and percent signs would begin another command.
annotate() {
  local text=${2//'%'/'%25'}
  text=${text//$'\r'/'%0D'}
  printf '::%s title=edgeprune::%s\n' "$1" "${text//$'\n'/'%0A'}"
}

finish() {
  printf 'exit-code=%s\nreport=%s\n' "$1" "$2" >>"$GITHUB_OUTPUT"
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

# GitHub takes 65,536 characters; a table is cut between two rows.
write_body() {
  printf '%s\n' "$marker"
  awk '{ size += length($0) + 1 } size > 60000 { print "\n(cut; the whole report is in the job summary)"; exit } { print }' "$1"
}

# The comment of this workflow and job, found by its first line and by who wrote it.
post_comment() {
  local body=$scratch/comment.md issue="repos/$GITHUB_REPOSITORY/issues" number=${PULL_REQUEST:-} marker key found
  if [[ ! $number =~ ^[0-9]+$ ]]; then
    annotate notice 'no pull request, so no comment'
    return
  fi
  key=$(printf '%s\n' "${GITHUB_WORKFLOW:-}" "${GITHUB_JOB:-}" "${INPUT_WORKING_DIRECTORY:-}" "${INPUT_CONFIG:-}" | cksum)
  marker="<!-- edgeprune-check ${key%% *} -->"
  write_body "$1" >"$body"
  if ! found=$(gh api --paginate "$issue/$number/comments" --jq \
    ".[] | select(.user.login == \"github-actions[bot]\" and (.body | startswith(\"$marker\"))) | .id"); then
    annotate warning "the pull request's comments cannot be read; the job needs permissions: pull-requests: write"
    return
  fi
  found=${found%%$'\n'*}
  if [[ $found =~ ^[0-9]+$ ]]; then
    gh api --silent --method PATCH "$issue/comments/$found" --field "body=@$body"
  else
    gh api --silent --method POST "$issue/$number/comments" --field "body=@$body"
  fi || annotate warning 'the comment cannot be written; the job needs permissions: pull-requests: write'
}

scratch=$(mktemp -d "${RUNNER_TEMP:-/tmp}/edgeprune-check.XXXXXX") || exit 3
report=$scratch/report.md errors=$scratch/errors.txt output=$scratch/output.txt

if ! cd -- "${INPUT_WORKING_DIRECTORY:-.}"; then
  annotate error "the working directory ${INPUT_WORKING_DIRECTORY:-.} does not exist"
  finish 2 ''
fi

files=()
find_files
arguments=(check --format markdown --output "$report")
[[ -z ${INPUT_CONFIG:-} ]] || arguments+=(--config "$INPUT_CONFIG")
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
if [[ ${INPUT_COMMENT:-} == true ]]; then
  post_comment "$report"
fi
finish "$code" "$report"
