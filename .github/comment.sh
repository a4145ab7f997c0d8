#!/usr/bin/env bash
# The comment on a pull request. check.sh reads the functions from here; run by itself, by comment/action.yml, it posts
# what the check of a pull request from a fork left in a folder. Everything comes from the environment.

# A message for the log's margin. Line ends and percent signs would begin another command.
annotate() {
  local text=${2//'%'/'%25'}
  text=${text//$'\r'/'%0D'}
  printf '::%s title=edgeprune::%s\n' "$1" "${text//$'\n'/'%0A'}"
}

# The mode of the input `comment`: never, always, on-change or on-failure; nothing for another word.
comment_mode() {
  case $1 in
    '' | false | never) echo never ;;
    true | always) echo always ;;
    on-change | on-failure) echo "$1" ;;
  esac
}

# Whether a report (a file, an exit code) is worth a comment of its own in a mode. The title says what changed; names out
# of model files stand below it.
is_worth_it() {
  local title
  case $3 in
    always) return 0 ;;
    on-failure) [[ $2 != 0 ]] ;;
    on-change)
      IFS= read -r title <"$1"
      [[ $2 != 0 || $title != '### edgeprune: '*', no size changed' ]]
      ;;
    *) return 1 ;;
  esac
}

# GitHub takes 65,536 characters; a table is cut between two rows.
write_body() {
  printf '%s\n' "$marker"
  awk '{ size += length($0) + 1 } size > 60000 { print "\n(cut; the whole report is in the job summary)"; exit } { print }' "$1"
}

# The comment of this workflow and job, found by its first line and by who wrote it. One that is there is kept up to
# date in every mode, so that it never tells what is no longer so.
post_comment() {
  local report=$1 code=$2 mode=$3 body=$scratch/comment.md issue="repos/$GITHUB_REPOSITORY/issues"
  local number=${PULL_REQUEST:-} marker key found
  if [[ ! $number =~ ^[0-9]+$ ]]; then
    annotate notice 'no pull request, so no comment'
    return
  fi
  key=$(printf '%s\n' "${GITHUB_WORKFLOW:-}" "${GITHUB_JOB:-}" "${INPUT_WORKING_DIRECTORY:-}" "${INPUT_CONFIG:-}" | cksum)
  marker="<!-- edgeprune-check ${key%% *} -->"
  write_body "$report" >"$body"
  if ! found=$(gh api --paginate "$issue/$number/comments" --jq \
    ".[] | select(.user.login == \"github-actions[bot]\" and (.body | startswith(\"$marker\"))) | .id"); then
    annotate warning "the pull request's comments cannot be read; the job needs permissions: pull-requests: write"
    return
  fi
  found=${found%%$'\n'*}
  if [[ $found =~ ^[0-9]+$ ]]; then
    gh api --silent --method PATCH "$issue/comments/$found" --field "body=@$body"
  elif is_worth_it "$report" "$code" "$mode"; then
    gh api --silent --method POST "$issue/$number/comments" --field "body=@$body"
  fi || annotate warning 'the comment cannot be written; the job needs permissions: pull-requests: write'
}

# What the check left for the comment, in a folder that can be kept as an artifact.
leave_comment() {
  mkdir -p "$scratch/comment"
  cp -- "$1" "$scratch/comment/report.md"
  printf '%s\n' "$2" >"$scratch/comment/exit-code"
  printf '%s\n' "${PULL_REQUEST:-}" >"$scratch/comment/pull-request"
}

# A fork wrote the folder: nothing in it is believed. The number must be that of a pull request whose newest commit is
# the one that was checked, the report must begin as ours do, and it mentions nobody.
post_for_fork() {
  local folder=${INPUT_FOLDER:-.} number code head title mode
  mode=$(comment_mode "${INPUT_COMMENT:-always}")
  number=$(head -c 20 -- "$folder/pull-request" 2>/dev/null)
  code=$(head -c 4 -- "$folder/exit-code" 2>/dev/null)
  if [[ -z $mode || ! ${INPUT_HEAD_SHA:-} =~ ^[0-9a-f]{40,64}$ ]]; then
    annotate error 'comment is always, on-change or on-failure, and head-sha that of github.event.workflow_run'
    return 2
  fi
  if [[ -L $folder/report.md || ! -f $folder/report.md || ! $number =~ ^[0-9]+$ || ! $code =~ ^[0-9]+$ ]]; then
    annotate error "$folder holds no report of a check on a pull request"
    return 4
  fi
  if ! head=$(gh api "repos/$GITHUB_REPOSITORY/pulls/$number" --jq .head.sha) || [[ $head != "$INPUT_HEAD_SHA" ]]; then
    annotate notice "pull request $number has newer commits, or is another one: no comment"
    return 0
  fi
  head -c 200000 -- "$folder/report.md" | sed $'s/@/@\xe2\x80\x8b/g' >"$scratch/report.md"
  IFS= read -r title <"$scratch/report.md"
  if [[ $title != '### edgeprune'* ]]; then
    annotate error "$folder/report.md is no report of a check"
    return 4
  fi
  PULL_REQUEST=$number
  post_comment "$scratch/report.md" "$code" "$mode"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -uo pipefail
  scratch=$(mktemp -d "${RUNNER_TEMP:-/tmp}/edgeprune-comment.XXXXXX") || exit 3
  post_for_fork
fi
