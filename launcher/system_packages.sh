#!/usr/bin/env bash
# Installs the Debian packages that tests need. Those of many hosts build hosts out of network namespaces, each with an
# sshd of its own, and launch on them over pdsh, Open MPI and Slurm; those of reports open them in a headless Chromium.
# Does nothing where they are installed; where it cannot install them, those tests are skipped and say so.
set -euo pipefail
packages=(iproute2 munge openmpi-bin openssh-client openssh-server pdsh procps slurm-client slurmctld slurmd util-linux)

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
browser=()
{ command -v chromium-headless-shell || command -v chromium || command -v google-chrome; } >/dev/null ||
    browser=(chromium-headless-shell fonts-dejavu-core)
[ ${#missing[@]} -gt 0 ] || [ ${#browser[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed, and only root can: ${missing[*]} ${browser[*]}; the tests that need them will be skipped"
    exit 0
fi

# The tests start what they need themselves: no service is to run on the machine because of them.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
install() {
    [ $# -gt 0 ] || return 0
    echo "Installing $*."
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
        echo "installing $* failed; the tests that need them will be skipped" >&2
}
apt-get update -qq || true
install "${missing[@]}"
install "${browser[@]}" # by itself: not every distribution has it
