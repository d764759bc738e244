#!/bin/sh
# Pushes files as an OCI artifact, with nothing but curl: models, charts, SBOMs, signatures, anything with a media type.
#
#   scripts/push-artifact.sh [options] URL/NAME[:TAG] FILE:TYPE...
#
#   -t TYPE        artifactType of the whole (needed where there is no -c)
#   -c FILE:TYPE   the configuration (default: the empty one, {})
#   -s DIGEST      the manifest in the same repository that this one is about; found again as its referrer
#   -a KEY=VALUE   an annotation of the manifest; may be repeated
#
#   scripts/push-artifact.sh -t application/vnd.example.model http://127.0.0.1:5000/team/model:v1 \
#       weights.bin:application/octet-stream README.md:text/markdown
#
# Prints the manifest's digest. Without a TAG the manifest is known by its digest alone. Content that is there already
# is not sent again. Credentials for the registry or the proxy before it come from ~/.netrc.
set -eu

fail() {
    echo "push-artifact: $1" >&2
    exit 1
}

# Options of every request: an error status is an error, its body is shown; nobody waits for ever for an answer.
request() {
    curl --silent --show-error --fail-with-body --netrc-optional --connect-timeout 10 --speed-limit 1 --speed-time 120 "$@"
}

# The value of one header of the answer in $answer; empty where there is none.
header() {
    tr -d '\r' <"$answer" | sed -n "s/^$1: *//Ip" | tail -n 1
}

# A JSON string. What would need more than \" and \\ is refused: a shell cannot tell characters from bytes.
quote() {
    case $1 in
        *[[:cntrl:]]*) fail "control characters cannot be written here: $1" ;;
    esac
    printf '"%s"' "$(printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g')"
}

digest_of() {
    printf 'sha256:%s' "$(sha256sum <"$1" | cut -c 1-64)"
}

size_of() {
    wc -c <"$1" | tr -d ' '
}

# push_blob FILE DIGEST: one POST opens a session, one PUT carries the bytes and closes it.
push_blob() {
    if curl --silent --netrc-optional --connect-timeout 10 --max-time 60 --fail --head --output /dev/null \
        "$base/v2/$name/blobs/$2"; then
        return
    fi
    request --request POST --data '' --dump-header "$answer" --output "$body" "$base/v2/$name/blobs/uploads/" ||
        fail "opening an upload failed: $(cat "$body")"
    location=$(header location)
    case $location in
        /*) location=$base$location ;; # relative Locations are usual: the registry does not know its outer name
        http://* | https://*) ;;
        *) fail "the registry named no place for the upload" ;;
    esac
    case $location in
        *\?*) location="$location&digest=$2" ;;
        *) location="$location?digest=$2" ;;
    esac
    request --request PUT --upload-file "$1" --header 'Content-Type: application/octet-stream' \
        --output "$body" "$location" || fail "pushing $1 failed: $(cat "$body")"
}

# descriptor FILE TYPE: pushes the file and prints `"mediaType": ..., "digest": ..., "size": ...`.
descriptor() {
    [ -f "$1" ] || fail "no such file: $1"
    digest=$(digest_of "$1")
    push_blob "$1" "$digest"
    quoted=$(quote "$2")
    printf '"mediaType": %s, "digest": "%s", "size": %s' "$quoted" "$digest" "$(size_of "$1")"
}

# FILE:TYPE may have colons in FILE; a media type has none.
split_pair() {
    file=${1%:*}
    type=${1##*:}
    case $1 in
        *:*/*) ;;
        *) fail "expected FILE:TYPE, not $1" ;;
    esac
}

artifact_type=""
config=""
subject=""
annotations=""
while getopts t:c:s:a: option; do
    case $option in
        t) artifact_type=$(quote "$OPTARG") ;;
        c) config=$OPTARG ;;
        s) subject=$OPTARG ;;
        a)
            case $OPTARG in
                ?*=*) ;;
                *) fail "expected KEY=VALUE, not $OPTARG" ;;
            esac
            key=$(quote "${OPTARG%%=*}")
            value=$(quote "${OPTARG#*=}")
            annotations="$annotations${annotations:+, }$key: $value"
            ;;
        *) fail "see the beginning of $0 for how it is used" ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || fail "expected URL/NAME[:TAG] FILE:TYPE...; see the beginning of $0"
[ -n "$artifact_type$config" ] || fail "say what it is: -t TYPE, or -c FILE:TYPE"

case $1 in
    http://?*/?* | https://?*/?*) ;;
    *) fail "expected a URL such as http://127.0.0.1:5000/team/model:v1, not $1" ;;
esac
scheme=${1%%://*}
rest=${1#*://}
shift
base=$scheme://${rest%%/*}
name=${rest#*/}
tag=""
case $name in
    *:*)
        tag=${name##*:}
        name=${name%:*}
        ;;
esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM
answer=$scratch/answer
body=$scratch/body
: >"$body"

if [ -n "$config" ]; then
    split_pair "$config"
else
    file=$scratch/empty.json
    type=application/vnd.oci.empty.v1+json
    printf '{}' >"$file"
fi
config_json=$(descriptor "$file" "$type")

layers=""
for pair in "$@"; do
    split_pair "$pair"
    layer=$(descriptor "$file" "$type")
    title=$(quote "$(basename "$file")")
    layers="$layers${layers:+, }{$layer, \"annotations\": {\"org.opencontainers.image.title\": $title}}"
done

manifest=$scratch/manifest.json
manifest_type=application/vnd.oci.image.manifest.v1+json
{
    printf '{"schemaVersion": 2, "mediaType": "%s"' "$manifest_type"
    [ -z "$artifact_type" ] || printf ', "artifactType": %s' "$artifact_type"
    printf ', "config": {%s}, "layers": [%s]' "$config_json" "$layers"
    if [ -n "$subject" ]; then
        request --head --dump-header "$answer" --output /dev/null --header 'Accept: */*' \
            "$base/v2/$name/manifests/$subject" || fail "the subject $subject is not in $name"
        subject_type=$(header content-type)
        printf ', "subject": {"mediaType": %s, "digest": "%s", "size": %s}' \
            "$(quote "$subject_type")" "$subject" "$(header content-length)"
    fi
    [ -z "$annotations" ] || printf ', "annotations": {%s}' "$annotations"
    printf '}'
} >"$manifest"

digest=$(digest_of "$manifest")
request --request PUT --upload-file "$manifest" --header "Content-Type: $manifest_type" \
    --dump-header "$answer" --output "$body" "$base/v2/$name/manifests/${tag:-$digest}" ||
    fail "pushing the manifest failed: $(cat "$body")"
if [ -n "$subject" ] && [ -z "$(header oci-subject)" ]; then
    echo "push-artifact: this registry has no list of referrers; $digest will not be found by its subject" >&2
fi
echo "$digest"
