# Runs on a hypervisor, as the user of OpenNebula: ACTION CACHE ...
set -eu
action=$1 cache=$2

die() {
    echo "$*"
    exit 1
}

clone() {
    image=$1 disk=$2 format=$3 size=$4
    name=${image%@*} version=${image#*@}
    if [ "$version" = "$image" ]; then
        version=$(readlink "$cache/images/$name/current") || die "no version of $name is current here: kiosk sync $name"
    fi
    base=$cache/images/$name/$version/disk.raw
    [ -f "$base" ] || die "$name@$version is not on this host: kiosk sync $name@$version"
    folder=$(dirname "$disk")
    mkdir -p "$folder"
    # a datastore that only this host has is monitored here
    [ -e "$folder/../.monitor" ] || echo ssh >"$folder/../.monitor"
    new=$disk.kiosk
    rm -f "$new"
    trap 'rm -f "$new"' EXIT
    if [ "$format" = raw ]; then
        cp --reflink=auto --sparse=always "$base" "$new"
        chmod 0660 "$new"
    else
        qemu-img create -q -f qcow2 -F raw -b "$base" "$new"
    fi
    if [ "$size" -gt 0 ] && [ "$((size * 1048576))" -gt "$(stat -c %s "$base")" ]; then
        qemu-img resize -q -f "$format" "$new" "${size}M"
    fi
    mv -fT "$new" "$disk"
    trap - EXIT
    echo "$name@$version"
}

base() {
    [ -e "$1" ] || die "$1 is not there"
    qemu-img info -U --output=json "$1" | sed -n 's/^    "full-backing-filename": "\(.*\)",\{0,1\}$/\1/p'
}

case $action in
clone) clone "$3" "$4" "$5" "$6" ;;
base) base "$3" ;;
has) [ -f "$3" ] || die "$3 is not on this host, and a disk is built on it: kiosk sync" ;;
delete) rm -rf -- "$3" "$3.kiosk" ;;
*) die "no such action: $action" ;;
esac
