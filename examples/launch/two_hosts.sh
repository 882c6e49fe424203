#!/usr/bin/env bash
# Two "hosts" on one Linux machine, to try a launcher before booking a cluster:
#
#   sudo env "PATH=$PATH" examples/launch/two_hosts.sh COMMAND...
#
# runs COMMAND on host1, in this folder and with this PATH and no other variable, and takes both hosts down after it. Each
# has its own network (10.0.0.1 and 10.0.0.2), processes, hostname and sshd on port 22; they share this file system, as a
# cluster's nodes share a disk. Needs root on Linux, iproute2, openssh-server, openssh-client and, for DeepSpeed, pdsh.
set -euo pipefail

fail() {
    echo "error: $1" >&2
    exit 2
}

# Everything that the hosts need, before anything is made.
check_machine() {
    if [[ $(uname) != Linux || $EUID != 0 ]]; then fail "$0 needs root on Linux: sudo env \"PATH=\$PATH\" $0 COMMAND..."; fi
    local missing=() program
    for program in ip:iproute2 unshare:util-linux sshd:openssh-server ssh:openssh-client ssh-keygen:openssh-client; do
        if ! command -v "${program%:*}" >/dev/null; then missing+=("${program%:*} (package ${program#*:})"); fi
    done
    if ((${#missing[@]})); then fail "$0 needs $(printf '%s, ' "${missing[@]}")which this machine has not; install it first."; fi
    # Both end with the command, and leave nothing behind.
    if ! unshare --net ip link add eth0 type veth peer name eth1; then
        fail "this machine does not let root make networks; a container needs --privileged."
    fi
    if ! unshare --pid --fork --mount-proc --uts bash -c "hostname host1"; then
        fail "this machine does not let root make process namespaces; a container needs --privileged."
    fi
    if [[ -e /run/netns/host1 || -e /run/netns/host2 ]]; then
        fail "network namespace host1 or host2 exists already: another $0 runs, or one was killed with SIGKILL. Remove \
what it left with: ip netns delete host1; ip netns delete host2"
    fi
}

hosts=()
made=()
work=

take_down() {
    # unshare's --kill-child ends the first process of a host with it, and that one all others. Braces: bash tells of
    # every child that a signal ended.
    for pid in "${hosts[@]}"; do
        { kill -KILL "$pid" && wait "$pid"; } 2>/dev/null || true
    done
    for host in host1 host2; do
        ip netns delete "$host" 2>/dev/null || true
        rm -rf "/etc/netns/$host"
    done
    for folder in "${made[@]}"; do rmdir "$folder" 2>/dev/null || true; done
    rm -rf "$work"
}

make_folder() {
    if [[ ! -d $1 ]]; then
        mkdir -p "$1"
        made+=("$1")
    fi
}

make_keys() {
    ssh-keygen -q -t ed25519 -N "" -f "$work/host_key"
    mkdir -m 700 "$work/ssh"
    ssh-keygen -q -t ed25519 -N "" -f "$work/ssh/id_ed25519"
    cp "$work/ssh/id_ed25519.pub" "$work/ssh/authorized_keys"
    echo "host1,host2,10.0.0.1,10.0.0.2 $(cat "$work/host_key.pub")" >"$work/ssh/known_hosts"
    cat >"$work/sshd_config" <<CONFIG
HostKey $work/host_key
AuthorizedKeysFile $work/ssh/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
CONFIG
}

make_network() {
    for host in host1 host2; do
        ip netns add "$host"
        # `ip netns exec` lays the files of /etc/netns/NAME over those of /etc.
        mkdir -p "/etc/netns/$host"
        printf '127.0.0.1 localhost\n10.0.0.1 host1\n10.0.0.2 host2\n' >"/etc/netns/$host/hosts"
    done
    ip link add eth0 netns host1 type veth peer name eth0 netns host2
    for number in 1 2; do
        ip -n "host$number" address add "10.0.0.$number/24" dev eth0
        ip -n "host$number" link set eth0 up
        ip -n "host$number" link set lo up
    done
}

# In its own network, process, hostname and mount namespaces; the keys lie over ~/.ssh there, and nowhere else.
boot() {
    ip netns exec "$1" unshare --pid --fork --kill-child --mount-proc --uts bash -c "
        hostname $1
        mount --bind '$work/ssh' ~root/.ssh
        exec $(command -v sshd) -D -e -f '$work/sshd_config'" 2>"$work/$1.log" &
    hosts+=($!)
}

# sshd is not in everybody's PATH.
export PATH=$PATH:/usr/sbin:/sbin
if (($# == 0)); then fail "name a command to run on host1: $0 COMMAND..."; fi
check_machine
trap take_down EXIT
work=$(mktemp -d)
for folder in ~root/.ssh /run/sshd /etc/netns; do make_folder "$folder"; done
make_keys
make_network
boot host1
boot host2

reach() { ip netns exec host1 ssh -F none -i "$work/ssh/id_ed25519" -o "UserKnownHostsFile=$work/ssh/known_hosts" "$@"; }
for host in host1 host2; do
    for _ in {1..50}; do
        if reach "$host" true 2>/dev/null; then continue 2; fi
        sleep 0.1
    done
    fail "$host does not answer ssh; its sshd says: $(tail -n 5 "$work/$host.log")"
done
reach host1 "cd $(printf %q "$PWD") && $(printf '%q ' env "PATH=$PATH" "$@")"
