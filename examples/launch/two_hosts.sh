#!/usr/bin/env bash
# Two "hosts" on one Linux machine, to try a launcher before booking a cluster:
#
#   sudo env "PATH=$PATH" examples/launch/two_hosts.sh COMMAND...
#
# runs COMMAND on host1, in this folder and with this PATH and no other variable, and takes both hosts down after it. Each
# has its own network (10.0.0.1 and 10.0.0.2), processes, hostname and sshd on port 22; they share this file system, as a
# cluster's nodes share a disk. Needs root on Linux, iproute2, openssh-server, openssh-client and, for DeepSpeed, pdsh.
set -euo pipefail

if [[ -e /run/netns/host1 || -e /run/netns/host2 ]]; then
    echo "error: network namespace host1 or host2 exists already; another $0 runs, or: ip netns delete host1" >&2
    exit 2
fi
work=$(mktemp -d)
hosts=()

take_down() {
    # Ending the first process of a process namespace ends all of it.
    for pid in "${hosts[@]}"; do kill -KILL "$(</proc/"$pid"/task/"$pid"/children)" 2>/dev/null || true; done
    wait
    for host in host1 host2; do
        ip netns delete "$host" 2>/dev/null || true
        rm -rf "/etc/netns/$host"
    done
    # Made below where they were missing; one with something in it stays.
    rmdir ~root/.ssh /etc/netns 2>/dev/null || true
    rm -rf "$work"
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
        exec /usr/sbin/sshd -D -e -f '$work/sshd_config'" 2>"$work/$1.log" &
    hosts+=($!)
}

trap take_down EXIT
mkdir -p ~root/.ssh /run/sshd
make_keys
make_network
boot host1
boot host2

reach() { ip netns exec host1 ssh -F none -i "$work/ssh/id_ed25519" -o "UserKnownHostsFile=$work/ssh/known_hosts" "$@"; }
for host in host1 host2; do
    for _ in {1..50}; do
        if reach "$host" true 2>/dev/null; then break; fi
        sleep 0.1
    done
done
reach host1 "cd $(printf %q "$PWD") && $(printf '%q ' env "PATH=$PATH" "$@")"
