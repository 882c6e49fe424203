#!/usr/bin/env bash
# A Slurm of two nodes inside two_hosts.sh:
#
#   sudo examples/launch/two_hosts.sh examples/launch/two_hosts_slurm.sh sbatch --wait examples/launch/slurm.sbatch ...
#
# Needs slurm-wlm and munge. Its configuration, key and state are in a temporary folder; its daemons end with the hosts.
set -euo pipefail

fail() {
    echo "error: $1" >&2
    exit 2
}

# The daemons are not in everybody's PATH.
export PATH=$PATH:/usr/sbin:/sbin
for program in slurmctld:slurm-wlm slurmd:slurm-wlm sinfo:slurm-wlm munged:munge ssh:openssh-client; do
    if ! command -v "${program%:*}" >/dev/null; then fail "$0 needs ${program%:*}; install package ${program#*:} first."; fi
done
if [[ $(hostname) != host1 ]]; then fail "run it inside two hosts: sudo examples/launch/two_hosts.sh $0 COMMAND..."; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SLURM_CONF=$work/slurm.conf
# munge refuses a socket or a key that others could replace; the nodes find both here.
chmod 755 "$work"
cores=$(nproc)

cat >"$SLURM_CONF" <<CONFIG
ClusterName=two_hosts
SlurmctldHost=host1
SlurmUser=root
AuthInfo=socket=$work/munge.socket
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool-%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd-%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd-%n.log
# No cgroups, no accounting: only where processes start and how they end is tried here.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
MailProg=/bin/true
NodeName=host[1-2] CPUs=$cores
PartitionName=all Nodes=host[1-2] Default=YES MaxTime=INFINITE
CONFIG
mkdir "$work/state" "$work/spool-host1" "$work/spool-host2"
# slurmd loads a cgroup plugin even so; this one does without a mounted cgroup file system.
echo CgroupPlugin=cgroup/v1 >"$work/cgroup.conf"

dd if=/dev/urandom of="$work/munge.key" bs=1 count=1024 status=none
chmod 400 "$work/munge.key"
munged --force --key-file="$work/munge.key" --socket="$work/munge.socket" \
    --log-file="$work/munge.log" --pid-file="$work/munge.pid" --seed-file="$work/munge.seed"
slurmctld
slurmd
ssh host2 "SLURM_CONF=$SLURM_CONF slurmd"
for _ in {1..120}; do
    if sinfo --noheader --states=idle --format=%D 2>/dev/null | grep -qx 2; then break; fi
    sleep 0.5
done
if ! sinfo --noheader --states=idle --format=%D | grep -qx 2; then
    fail "the two nodes did not start within a minute; slurmctld says: $(tail -n 5 "$work/slurmctld.log")"
fi

"$@"
