# What the actions share. They run on the front end with the arguments of the contract, and end with 0 or an error
# between the marks that oned looks for. Everything that reaches a hypervisor's shell was matched against a pattern.

DRIVER=$(dirname "$(readlink -f "$0")")
. "$DRIVER/kiosk.conf"

fail() {
    {
        echo "ERROR MESSAGE --8<------"
        echo "kiosk $(basename "$0"): $*"
        echo "ERROR MESSAGE ------>8--"
    } >&2
    exit 1
}

matches() {
    printf '%s' "$1" | LC_ALL=C grep -qxE -- "$2" && [ "$(printf '%s' "$1" | wc -l)" -eq 0 ]
}

# host:path of an argument, into HOST and DISK
place() {
    HOST=${1%%:*}
    DISK=${1#*:}
    matches "$HOST" '[A-Za-z0-9][A-Za-z0-9._-]{0,252}' || fail "$1: no host name before the colon"
    matches "$DISK" '(/+[A-Za-z0-9_-][A-Za-z0-9._-]*){3,}/?' || fail "$1: not a path below a datastore"
}

# kiosk:NAME, kiosk:NAME@VERSION, or FRONTEND:NAME..., into IMAGE
source_image() {
    IMAGE=${1##*:}
    matches "$IMAGE" '[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?(@[0-9]{1,14}(\.[0-9]{1,9}){0,3})?' ||
        fail "the image's SOURCE is $1, and should be kiosk:NAME or kiosk:NAME@VERSION"
}

# Runs an action of on_host.sh on a host, with words that were matched before.
on_host() {
    host=$1
    shift
    said=$($SSH "$host" /bin/sh -s -- "$@" <"$DRIVER/on_host.sh" 2>&1) || fail "$host: ${said:-ssh could not reach it}"
    printf '%s' "$said"
}
