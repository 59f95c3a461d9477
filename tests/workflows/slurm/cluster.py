"""A Slurm of one node with accounting, on loopback, without systemd, for as long as a test runs.

Debian's packages are enough: ``apt-get install slurmctld slurmd slurmdbd slurm-client munge
mariadb-server``. Needs root. Every daemon stays in the foreground and is ended by its process.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = {
    "munged": "munge",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
    "slurmdbd": "slurmdbd",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "sacct": "slurm-client",
}
MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")
CPUS, MEMORY_MB, GPUS = 8, 16000, 2
"""What the node says it has; jobs of tests need little of it."""

MUNGE = "--key-file={0}/munge.key --socket={0}/munge.socket --pid-file={0}/munge.pid"
DBD = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mysql}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
PidFile={folder}/dbd.pid
CommunicationParameters=NoInAddrAny
"""
SLURM = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/{task}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=5,sched_min_interval=0
KillWait=5
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
MpiDefault=none
GresTypes=gpu
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE DefMemPerCPU=500 State=UP
"""
CGROUP = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainRAMSpace=yes
AllowedSwapSpace=0
"""
GRES = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"
ACCOUNT = """\
create database slurm_acct_db;
create user slurm@localhost identified by 'slurm';
grant all on slurm_acct_db.* to slurm@localhost;
create user slurm@127.0.0.1 identified by 'slurm';
grant all on slurm_acct_db.* to slurm@127.0.0.1;
"""


def why_not():
    """Why there can be no Slurm here; None if there can."""
    missing = sorted({PROGRAMS[name] for name in PROGRAMS if shutil.which(name) is None})
    if missing:
        return f"not installed: apt-get install {' '.join(missing)}"
    return None if os.geteuid() == 0 else "its daemons need root"


def limits_memory():
    """Whether jobs can be held to their memory here."""
    return (MEMORY_CGROUP / "memory.limit_in_bytes").exists() and os.access(MEMORY_CGROUP, os.W_OK)


@contextlib.contextmanager
def running(folder):
    """Start a Slurm in a folder; the environment in which its commands find it."""
    ports = dict(zip(("mysql", "dbd", "ctld", "slurmd"), _free_ports(4), strict=True))
    environment = _configure(folder, ports)
    with contextlib.ExitStack() as daemons:

        def start(*command):
            with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
                process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            daemons.callback(_stop, process)

        start("munged", "--foreground", "--force", *MUNGE.format(folder).split())
        start(
            *("mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}/mysql"),
            *(f"--socket={folder}/mysql/socket", "--bind-address=127.0.0.1"),
            *(f"--port={ports['mysql']}", f"--pid-file={folder}/mysql/pid"),
        )
        client = ("mariadb", "--no-defaults", f"--socket={folder}/mysql/socket", "--execute")
        _until("the database", [*client, "select 1"], environment)
        subprocess.run([*client, ACCOUNT], env=environment, check=True)
        start("slurmdbd", "-D")
        _until("the accounting", ["sacctmgr", "-i", "add", "cluster", "tests"], environment)
        start("slurmctld", "-D", "-f", environment["SLURM_CONF"])
        _until("the controller", ["scontrol", "ping"], environment, "is UP")
        start("slurmd", "-D", "-N", _node(), "-f", environment["SLURM_CONF"])
        _until("the node", ["sinfo", "--noheader", "--format=%T"], environment, "idle")
        yield environment


def _configure(folder, ports):
    for name in ("state", "spool", "mysql"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    subprocess.run(
        [
            *("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={folder}/mysql"),
            *("--skip-test-db", "--auth-root-authentication-method=normal"),
        ],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    limited = limits_memory()
    values = {
        "folder": folder,
        "host": _host(),
        "node": _node(),
        "cpus": CPUS,
        "memory": MEMORY_MB,
        "gpus": GPUS,
    }
    values |= {"task": "cgroup" if limited else "none", **ports}
    files = {"slurm.conf": SLURM.format(**values), "gres.conf": GRES}
    files |= {"cgroup.conf": CGROUP} if limited else {}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    dbd = folder / "slurmdbd.conf"
    dbd.touch(mode=0o600)
    dbd.write_text(DBD.format(**values), encoding="utf-8")
    return {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}


def _host():
    return socket.gethostname().partition(".")[0]


def _node():
    """Name of the node, and so of its control groups: several of these may run at a time."""
    return f"node{os.getpid()}"


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _until(what, command, environment, said="", seconds=60):
    """Wait until a command succeeds and says something."""
    until = time.monotonic() + seconds
    while True:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0 and said in done.stdout:
            return
        if time.monotonic() > until:
            raise RuntimeError(f"{what} of Slurm did not start: {done.stdout} {done.stderr}")
        time.sleep(0.2)


def _stop(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    import signal
    import sys

    # To try things by hand: python cluster.py FOLDER; Ctrl-C or SIGTERM ends it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    place = Path(sys.argv[1]).absolute()
    place.mkdir(parents=True)
    with running(place) as variables:
        sys.stdout.write(f"export SLURM_CONF={variables['SLURM_CONF']}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
