# Words of the tour: printing, checking, starting and stopping. Sourced by tests/tour/run.

HTTP_PORT=${HTTP_PORT:-9080}
HTTPS_PORT=${HTTPS_PORT:-9443}
ADMIN_PORT=${ADMIN_PORT:-9180}
ADMIN_HTTPS_PORT=${ADMIN_HTTPS_PORT:-7443}
STATUS_PORT=${STATUS_PORT:-9091}
UPSTREAM_PORT=${UPSTREAM_PORT:-8443}

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
  bold='' dim='' green='' red='' plain=''
fi

# --- printing -------------------------------------------------------------------------------------

chapter() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
say() { printf '\n%s\n' "$1"; }
note() { printf '  %s✓%s %s\n' "$green" "$plain" "$1"; }

# Ends the tour with a sentence for the user; the EXIT trap stops what runs.
fail_with() {
  printf '\n%s✗ %s%s\n' "$red" "$1" "$plain" >&2
  exit 1
}

# --- running what is shown ------------------------------------------------------------------------

status='' reply='' curl_exit=0

# The documents' commands as they stand, on this run's ports.
on_our_ports() {
  local text=$1
  text=${text//:9080/:$HTTP_PORT}
  text=${text//:9443/:$HTTPS_PORT}
  text=${text//:9180/:$ADMIN_PORT}
  text=${text//:7443/:$ADMIN_HTTPS_PORT}
  text=${text//:8443/:$UPSTREAM_PORT}
  text=${text//\"port\\\": 8443/\"port\\\": $UPSTREAM_PORT}
  printf '%s' "$text"
}

# What curl itself is asked besides what is shown: no progress meter, a time limit, and the status
# and its exit code on the side.
curl() {
  local code=0
  command curl -sS --max-time 15 -w '%{stderr}http_status=%{http_code}\n' "$@" || code=$?
  echo "curl_exit=$code" >&2
  return "$code"
}

quietly() {
  eval "$(on_our_ports "$1")" >"$run/reply" 2>"$run/aside" </dev/null || true
  status=$(sed -n 's/^http_status=//p' "$run/aside" | tail -n 1)
  curl_exit=$(sed -n 's/^curl_exit=//p' "$run/aside" | tail -n 1)
  reply=$(tr -d '\r\0' <"$run/reply")
}

# Prints a command, runs it here, prints what came back; `status`, `curl_exit` and `reply` hold the last curl's.
shown() {
  printf '%s' "$dim"
  on_our_ports "$1" | sed -e '1s/^/  $ /' -e '2,$s/^/    /'
  printf '%s\n' "$plain"
  quietly "$1"
  # The gateway's key and certificates are long and known: cut what is printed, not what is checked.
  { printf '%s\n' "$reply"; sed -e '/^http_status=/d' -e '/^curl_exit=/d' "$run/aside"; } |
    sed -e '/^ *$/d' -e 's/^\(.\{150\}\).*$/\1 …/' -e 's/^/    /' | sed -n 1,16p
}

# --- checking -------------------------------------------------------------------------------------

passed=0 failed=0

check() { # sentence, command…
  local sentence=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
    printf '  %s✓ %s%s\n' "$green" "$sentence" "$plain"
  else
    failed=$((failed + 1))
    printf '  %s✗ %s%s (status %s, curl exit code %s)\n' "$red" "$sentence" "$plain" "${status:-none}" "${curl_exit:-none}"
  fi
}

expect_status() { check "status $1" test "$status" = "$1"; }
expect_success() { check "accepted" is_success; }
expect_body() { check "$1" holds_line "$1"; }
expect_refused_handshake() { check "refused, no HTTP answer" is_refused_handshake; }

is_success() { case $status in 200 | 201) true ;; *) false ;; esac; }
holds_line() { grep -qxF -- "$1" <<<"$reply"; }
# curl: 35 handshake failed; 55 and 56 alert met on the first write or read, as TLS 1.3 has it.
is_refused_handshake() { [ "$status" = 000 ] && case $curl_exit in 35 | 55 | 56) true ;; *) false ;; esac; }

tour_status=1 # until the tour is through
finish_tour() {
  chapter "The tour"
  printf '%s passed, %s failed\n' "$passed" "$failed"
  if [ "$failed" -eq 0 ]; then
    tour_status=0
  else
    printf '%sThe gateway'\''s own words are in run/gateway.log, the upstream'\''s in run/upstream.log.%s\n' "$red" "$plain"
  fi
}

# --- starting and stopping ------------------------------------------------------------------------

pids=() names=()

port_is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

require_free_port() { # variable, port
  if port_is_taken "$2"; then
    fail_with "Port $2 is taken by another program$(port_owner "$2"). Stop it, or choose another port: make run $1=…"
  fi
}

port_owner() {
  local owner
  owner=$(ss -Hltnp "sport = :$1" 2>/dev/null | sed -n 's/.*users:((\("[^)]*\)).*/\1/p' | head -n 1) || true
  [ -z "$owner" ] || printf ' (%s)' "$owner"
}

find_nginx() { PATH="$PATH:/usr/sbin:/sbin" command -v nginx; }

gateway_is_ready() {
  [ "$(command curl -s -o /dev/null --max-time 2 -w '%{http_code}' "http://127.0.0.1:$STATUS_PORT/status/ready")" = 200 ]
}

start() { # name, log file, command…
  local name=$1 log=$2
  shift 2
  "$@" >"$log" 2>&1 </dev/null &
  pids+=("$!")
  names+=("$name")
}

# Polls for at most 15 seconds; fails at once when the newest process started is gone.
wait_until() { # name, what is awaited, command…
  local name=$1 what=$2 log tries
  shift 2
  log=run/gateway.log
  [ "$name" != nginx ] || log=run/upstream.log
  for ((tries = 0; tries < 150; tries++)); do
    if "$@"; then return; fi
    kill -0 "${pids[-1]}" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 20 "$root/$log" >&2
  if kill -0 "${pids[-1]}" 2>/dev/null; then
    fail_with "$name runs, but $what did not come true in 15 seconds; the end of $log is above."
  fi
  fail_with "$name ended before $what; the end of $log is above."
}

on_signal() {
  trap '' INT TERM HUP PIPE
  # Nobody reads any more: what runs is stopped without a word.
  if [ "$1" = PIPE ]; then exec >/dev/null 2>&1; fi
  printf '\n'
  case $1 in INT) exit "$tour_status" ;; *) exit 1 ;; esac
}

# The gateway first, so that what is in flight still has its upstream. Ends only what `start` started.
stop_all() {
  local at tries
  for ((at = ${#pids[@]} - 1; at >= 0; at--)); do
    kill -TERM "${pids[at]}" 2>/dev/null || true # Ctrl-C may have reached it already
    for ((tries = 0; tries < 100; tries++)); do
      kill -0 "${pids[at]}" 2>/dev/null || break
      sleep 0.1
    done
    if kill -KILL "${pids[at]}" 2>/dev/null; then
      printf '%s✗ %s did not stop in 10 seconds and was killed.%s\n' "$red" "${names[at]}" "$plain" >&2
    else
      printf '%s stopped.\n' "${names[at]}"
    fi
  done
  pids=()
}

row() { printf '  %-29s %s\n' "$1" "$2"; }

print_what_runs() {
  chapter "What runs"
  row "http://127.0.0.1:$HTTP_PORT" "the gateway, HTTP"
  row "https://127.0.0.1:$HTTPS_PORT" "the gateway, HTTPS: api.example.com, client certificate required"
  row "http://127.0.0.1:$ADMIN_PORT" "Admin API, APISIX flavour"
  row "https://localhost:$ADMIN_HTTPS_PORT" "Admin API, API7 flavour, self-signed"
  row "http://127.0.0.1:$STATUS_PORT" "/status, /status/ready, /apisix/prometheus/metrics"
  row "https://127.0.0.1:$UPSTREAM_PORT" "nginx, client certificate required"

  chapter "Where"
  row "certs/out" "certificates and keys of the demo"
  row "run/data" "the gateway's data; admin.key is the key to the Admin API"
  row "run/gateway.log, upstream.log" "what each of the two says"

  chapter "What to try, in another terminal, in this folder"
  cat <<SAY
  curl -i http://127.0.0.1:$HTTP_PORT/anything
  curl http://127.0.0.1:$ADMIN_PORT/apisix/admin/routes -H "X-API-KEY: \$(cat run/data/admin.key)"
  curl -i --resolve api.example.com:$HTTPS_PORT:127.0.0.1 --cacert certs/out/api.example.com/ca.crt \\
    --cert certs/out/api.example.com/client.crt --key certs/out/api.example.com/client.key \\
    https://api.example.com:$HTTPS_PORT/api/health

Ctrl-C stops both.
SAY
}
