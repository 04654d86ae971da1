#!/bin/sh
# Asks for one picture, waits for it and saves it. Needs curl 7.86 or later and jq.
#
#   examples/generate.sh API_URL SUBJECT PROMPT [FILE]
#
# The local cloud:  API_URL is what `dreamdrop status` says; nothing else is needed.
# An AWS account:   export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION, and AWS_SESSION_TOKEN if there is one.
set -eu

api=${1%/} subject=$2 prompt=$3 file=${4:-picture.png}

call() {
    curl --silent --show-error --fail-with-body \
        --aws-sigv4 "aws:amz:${AWS_REGION:-us-east-1}:execute-api" \
        --user "${AWS_ACCESS_KEY_ID:-000000000000}:${AWS_SECRET_ACCESS_KEY:-local}" \
        ${AWS_SESSION_TOKEN:+--header "x-amz-security-token: $AWS_SESSION_TOKEN"} "$@"
}

fail() {
    printf '%s\n' "$1" | jq .error >&2
    exit 1
}

request=$(jq --null-input --arg subject "$subject" --arg prompt "$prompt" '{subject: $subject, prompt: $prompt}')
generation=$(call --header "content-type: application/json" --data "$request" "$api/v1/generations") || fail "$generation"
id=$(printf %s "$generation" | jq --raw-output .id)
while [ "$(printf %s "$generation" | jq --raw-output .status)" = queued ]; do
    sleep 1
    generation=$(call "$api/v1/generations/$id") || fail "$generation"
done

[ "$(printf %s "$generation" | jq --raw-output .status)" = succeeded ] || fail "$generation"
curl --silent --show-error --fail --output "$file" "$(printf %s "$generation" | jq --raw-output '.images[0].url')"
echo "$file"
