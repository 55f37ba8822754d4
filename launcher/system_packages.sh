#!/usr/bin/env bash
# Installs the Debian packages that the tests of many hosts need: they build hosts out of network namespaces, each with
# an sshd of its own, and launch on them over pdsh, Open MPI and Slurm. Does nothing where they are installed; where it
# cannot install them, those tests are skipped and say so.
set -euo pipefail
packages=(iproute2 munge openmpi-bin openssh-client openssh-server pdsh procps slurm-client slurmctld slurmd util-linux)

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed, and only root can: ${missing[*]}; the tests of many hosts will be skipped"
    exit 0
fi

# The tests start what they need themselves: no service is to run on the machine because of them.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
echo "Installing ${missing[*]}."
{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    >/dev/null || echo "installing ${missing[*]} failed; the tests of many hosts will be skipped" >&2
