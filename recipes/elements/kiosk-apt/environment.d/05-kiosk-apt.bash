export DISTRO_NAME=debian
export DIB_RELEASE=${DIB_RELEASE:?}
export DIB_INIT_SYSTEM=systemd
export DIB_PYTHON_VERSION=3
export APT_CONFIG=/tmp/kiosk-apt/apt.conf
export DEBIAN_FRONTEND=noninteractive
export DEBCONF_NONINTERACTIVE_SEEN=true
# Kernel packages would make an initrd each time that one of them is configured: kiosk-initrd makes it once.
export INITRD=No
