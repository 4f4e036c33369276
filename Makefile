# kiosk: two commands do all the set-up on a fresh Debian 12: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= /usr/bin/python3
VENV := .venv
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
export DEBIAN_FRONTEND := noninteractive
APT := binutils ca-certificates cryptsetup-bin debootstrap dosfstools e2fsprogs fdisk gpg gpg-agent mtools \
       openssh-client openssl ovmf procps python3-venv qemu-system-x86 qemu-utils rpm squashfs-tools squid \
       systemd systemd-boot-efi tar xz-utils zstd
TEST := btrfs-progs dnsmasq-base iproute2 libarchive-tools libvirt-clients libvirt-daemon \
        libvirt-daemon-driver-qemu lvm2 munge nginx-light openssh-server opentracker postgresql python3-m2crypto \
        slurm-client slurm-wlm-basic-plugins slurmctld slurmd xfsprogs

FAST := -m "not slow" -n 2 --dist loadfile

BENCH := borgbackup casync curl nginx-light restic rsync time zchunk zsync

.PHONY: help demo test test-fast check bench bench-swarm apt clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

demo: apt $(VENV)/ready ## The whole road on real input: build, publish, sync, boot, contextualize, schedule
	@$(if $(SUDO),echo "==> The demo builds images in a chroot and so runs as root: sudo may ask for your password.";) \
	$(SUDO) $(VENV)/bin/kiosk demo

test test-fast: APT += $(TEST)
test: apt $(VENV)/ready check ## All tests, with a real image build and real VMs
	@echo "==> All tests: the fast ones first (20 minutes at the most; $(VENV)/bin/pytest by hand)"
	@$(SUDO) env KIOSK_PROGRESS=0 $(VENV)/bin/python -m pytest $(FAST) --durations=5
	@echo "==> And the slow ones: image builds and VMs"
	@$(SUDO) env KIOSK_PROGRESS=0 $(VENV)/bin/python -m pytest -m slow -n 2 --dist loadgroup --durations=10

test-fast: $(VENV)/ready ## The tests that need no image and no VM (under two minutes)
	@$(SUDO) $(VENV)/bin/python -m pytest $(FAST)

check: $(VENV)/ready ## Style, types, and the direction of imports
	@echo "==> ruff, mypy, import-linter"
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check -q . && $(VENV)/bin/mypy && \
	 $(VENV)/bin/lint-imports --no-cache | tail -n 6

bench: APT += $(BENCH)
bench: apt $(VENV)/ready ## Compare distribution with other tools (about an hour, 40 GB of disk)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[bench]'
	@$(SUDO) $(VENV)/bin/python -m benchmarks.distribution

bench-swarm: APT += iproute2
bench-swarm: apt $(VENV)/ready ## Measure and simulate how a large farm gets an image (about an hour and a half)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[bench]'
	@$(SUDO) $(VENV)/bin/python -m benchmarks.swarm
	@$(SUDO) $(VENV)/bin/python -m benchmarks.simulation

apt:
	@missing=$$(for p in $(APT); do dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  echo "==> Installing Debian packages:" $$missing; \
	  $(if $(SUDO),echo "    (with sudo)";) \
	  if [ ! -e /usr/sbin/policy-rc.d ]; then \
	    echo "    (their services are not started: tests and demo start their own)"; \
	    trap '$(SUDO) rm -f /usr/sbin/policy-rc.d' EXIT; \
	    printf '#!/bin/sh\nexit 101\n' | $(SUDO) install -m 0755 /dev/stdin /usr/sbin/policy-rc.d; \
	  fi; \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -qq -y --no-install-recommends $$missing \
	    -o Dpkg::Progress-Fancy=0 -o Dpkg::Use-Pty=0 >$(or $(TMPDIR),/tmp)/kiosk-apt.log 2>&1 || \
	    { tail -n 20 $(or $(TMPDIR),/tmp)/kiosk-apt.log >&2; exit 1; }; \
	fi
	@if [ -d /dev/shm ] && [ "$$(stat -c %a /dev/shm)" != 1777 ]; then \
	  echo "==> Opening /dev/shm to all users, as Debian has it: Squid shares memory there"; \
	  $(SUDO) chmod 1777 /dev/shm; \
	fi

$(VENV)/ready: pyproject.toml | apt
	@echo "==> Making the virtual environment $(VENV) with kiosk and what it needs (pip)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

clean: ## Remove the virtual environment and the demo's and the tests' folders
	$(SUDO) rm -rf --one-file-system $(VENV) /var/tmp/kiosk-demo /var/tmp/kiosk-test
