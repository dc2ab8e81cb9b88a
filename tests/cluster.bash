# Three daemons on loopback for the scripts that source this: `address N` is where daemon N listens, and TORUS_CLUSTER is set.

. "$(dirname "${BASH_SOURCE[0]}")/processes.bash"
PATH=${TORUS_BIN_DIR:?names the folder of the binaries; make sets it}:$PATH
command -v torusd torusctl torusblk >/dev/null || fail "no binaries in $TORUS_BIN_DIR: make build"

ports=([1]="$(free_port)" [2]="$(free_port)" [3]="$(free_port)")
address() { echo "127.0.0.1:${ports[$1]}"; }
TORUS_CLUSTER=$(address 1),$(address 2),$(address 3)
export TORUS_CLUSTER

# Sets `command` to the command line of daemon N.
daemon() { # N SIZE
  command=(torusd --data-dir "$folder/torus$1" --size "$2" --peer-address "$(address "$1")")
  [ "$1" = 1 ] || command+=(--join "$(address 1)")
}

# Starts daemon N and waits until it answers.
daemon_up() { # N SIZE
  local command
  daemon "$1" "$2"
  start "torusd$1" "${command[@]}"
  wait_for 60 answers "$(address "$1")"
}

# Whether the cluster knows all three.
joined() {
  local list n
  list=$(torusctl --json peer list) || return
  for n in 1 2 3; do [[ $list == *"$(address $n)"* ]] || return; done
}

# Makes three running daemons a cluster.
form() { # REPLICATION
  torusctl init --replication "$1"
  wait_for 20 joined
  torusctl peer add --all-peers
}
