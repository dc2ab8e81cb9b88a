# Processes that a script starts and that never outlive it; to be sourced. `folder` is a temporary folder of the script's own.

PATH=$PATH:/usr/sbin:/sbin
folder=$(mktemp -d "${TMPDIR:-/tmp}/torus.XXXXXX")
declare -A pids
trap 'finish $?' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() { echo "FAILED: $*" >&2; exit 1; }

finish() { # STATUS: ends everything; after a failure it shows the end of every log first
  local name log
  if [ "$1" != 0 ]; then
    for log in "$folder"/*.log; do
      [ ! -s "$log" ] || { echo "---- ${log##*/}"; tail -n 30 "$log"; } >&2
    done
  fi
  for name in "${!pids[@]}"; do kill -9 "${pids[$name]}" 2>/dev/null || true; done
  wait || true
  rm -rf "$folder"
}

# Looks twenty times a second until COMMAND succeeds, at most for SECONDS.
wait_for() { # SECONDS COMMAND...
  local looks=$(($1 * 20))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $((looks -= 1)) -gt 0 ] || fail "waited in vain for: $*"
    sleep 0.05
  done
}

# Starts COMMAND in the background, its output in NAME.log, its PID in pids[NAME].
start() { # NAME COMMAND...
  local name=$1
  shift
  "$@" </dev/null >>"$folder/$name.log" 2>&1 &
  pids[$name]=$!
}

ended() { # NAME: waits for its end, which has to be a success
  local status=0
  wait "${pids[$1]}" || status=$?
  unset "pids[$1]"
  [ "$status" = 0 ] || fail "$1 ended with status $status"
}

stop() { # NAME: SIGTERM, which has to end it in order
  kill "${pids[$1]}"
  ended "$1"
}

kill9() { # NAME
  kill -9 "${pids[$1]}"
  wait "${pids[$1]}" 2>/dev/null || true
  unset "pids[$1]"
}

answers() { (: <"/dev/tcp/${1%:*}/${1#*:}") 2>/dev/null; } # HOST:PORT

# A port below those that the kernel gives to outgoing connections, on which nothing listens.
free_port() {
  local port
  while port=$((12000 + RANDOM % 20000)) && answers "127.0.0.1:$port"; do :; done
  echo "$port"
}
