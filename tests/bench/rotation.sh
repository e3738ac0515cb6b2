# A certificate that is replaced while clients ask: the work `rotation`. Sourced by tests/bench/run after
# lib.sh; the access log is off.
#
# 400 requests a second go over 16 kept connections, and 50 new connections a second make one each. A second
# after the change before, each proxy is told of a new certificate in its own way: nginx's files are replaced
# and it is told to reload, HAProxy is told through its runtime API, the gateway through its Admin API. Counted are
# requests that were not answered, kept connections that were closed, and new connections that were begun after
# the reply to a change and shown a certificate from before it.

rotation_kept=16 rotation_rate=400 rotation_new=50

measure_rotation() {
  local peer
  make_turns
  for peer in "${many_peers[@]}"; do
    say "rotating certificates of $peer, $rotations times"
    rotate_under_load "$peer"
  done
  print_rotation >>"$out/table.md"
}

rotate_under_load() { # peer
  local peer=$1 turn began replied top kept new seconds=$((rotations + 2))
  start_peer "$peer"
  top=$started_pid
  run_load connection 64 "$tls_port" "$plain_port" >/dev/null
  echo "0 $(serial_of 0) 0" >"$dir/turns.$peer"
  "$load" --target "127.0.0.1:$tls_port" "${tls_args[@]}" --connections "$rotation_kept" --rate "$rotation_rate" \
    --requests $((rotation_rate * seconds)) --seconds $((seconds * 10)) --reopen >"$dir/kept.$peer" 2>"$dir/kept.$peer.log" &
  kept=$!
  "$load" --target "127.0.0.1:$tls_port" "${tls_args[@]}" --connections "$handshake_clients" --rate "$rotation_new" \
    --requests $((rotation_new * seconds)) --seconds $((seconds * 10)) --new --shown "$dir/shown.$peer" >"$dir/new.$peer" 2>"$dir/new.$peer.log" &
  new=$!
  for ((turn = 1; turn <= rotations; turn++)); do
    sleep 1
    began=${EPOCHREALTIME/./}
    "rotate_${peer%%-*}" "$turn"
    replied=${EPOCHREALTIME/./}
    echo "$replied $(serial_of "$turn") $((replied - began))" >>"$dir/turns.$peer"
  done
  # They fail when a request does, and say how many did.
  wait "$kept" || true
  wait "$new" || true
  stop "$top"
  replace_certificate 0
  [ -s "$dir/kept.$peer" ] && [ -s "$dir/new.$peer" ] || fail "the load on $peer said nothing"
  value[rotation/$peer/lost]=$(($(field errors <"$dir/kept.$peer") + $(field errors <"$dir/new.$peer")))
  value[rotation/$peer/closed]=$(field closed <"$dir/kept.$peer")
  value[rotation/$peer/kept_rate]=$(rate_of "$dir/kept.$peer")
  value[rotation/$peer/new_rate]=$(rate_of "$dir/new.$peer")
  value[rotation/$peer/change_ms]=$(awk 'NR > 1 { print $3 / 1000 }' "$dir/turns.$peer" | median)
  read -r "value[rotation/$peer/old]" "value[rotation/$peer/old_ms]" < <(old_after_new "$dir/turns.$peer" "$dir/shown.$peer")
}

rate_of() { awk -v n="$(field requests <"$1")" -v s="$(field seconds <"$1")" 'BEGIN { printf "%.0f", n / s }'; }

# How many connections were shown a certificate that had been replaced, by a change that was replied to before they
# began, and the longest time since that reply, in milliseconds. All times are of one clock.
old_after_new() { # file of turns: microseconds, serial number; file of connections: the same
  awk '
    NR == FNR { replied[NR - 1] = $1; turn[$2] = NR - 1; last = NR - 1; next }
    !($2 in turn) { print "bench: who made certificate " $2 "?" >"/dev/stderr"; failed = 1; exit }
    {
      next_turn = turn[$2] + 1
      if (next_turn <= last && replied[next_turn] < $1) {
        old++
        if ($1 - replied[next_turn] > late) late = $1 - replied[next_turn]
      }
    }
    END { if (failed) exit 1; printf "%d %.0f\n", old, late / 1000 }
  ' "$1" "$2"
}

# Certificates for one name; 0 is the one that all proxies start with.
make_turns() {
  local turn
  (
    cd "$dir/pki"
    for ((turn = 1; turn <= rotations; turn++)); do issue "turn-$turn" bench.test; done
    for turn in crt key pem; do cp "server.$turn" "turn-0.$turn"; done
  ) 2>"$dir/openssl.log" || fail "openssl failed; see $dir/openssl.log"
}

serial_of() { openssl x509 -in "$dir/pki/turn-$1.crt" -noout -serial | sed 's/serial=//'; }

# Each file whole, as tools that renew certificates do it.
replace_certificate() { # turn
  local kind
  for kind in crt key pem; do
    cp "$dir/pki/turn-$1.$kind" "$dir/pki/server.$kind.new"
    mv "$dir/pki/server.$kind.new" "$dir/pki/server.$kind"
  done
}

rotate_nginx() {
  replace_certificate "$1"
  "$nginx" -p "$dir/nginx" -c nginx.conf -e stderr -s reload 2>"$dir/reload.log" || fail "nginx -s reload: $(cat "$dir/reload.log")"
}

rotate_haproxy() {
  local pem="$dir/pki/server.pem" said
  said=$(tell_haproxy "set ssl cert $pem <<
$(cat "$dir/pki/turn-$1.pem")
" && tell_haproxy "commit ssl cert $pem")
  [[ $said == *Success* ]] || fail "HAProxy says: $said"
}

# One command of its runtime API, and the reply, which ends with the connection.
tell_haproxy() {
  local socket
  exec {socket}<>"/dev/tcp/127.0.0.1/$stats_port"
  printf '%s\n' "$1" >&"$socket"
  cat <&"$socket"
  exec {socket}>&-
}

rotate_gateway() { admin PUT ssls/bench "$(bench_ssl "turn-$1")"; }

print_rotation() {
  local peer
  echo
  echo "$rotations rotations, a second apart, at $rotation_rate requests a second over $rotation_kept kept connections and $rotation_new new ones a second:"
  echo
  echo "| peer | requests lost | old certificate after the reply | the latest, ms after it | kept connections closed | ms to the reply | requests/s, connections/s |"
  echo "|---|---:|---:|---:|---:|---:|---:|"
  for peer in "${many_peers[@]}"; do
    echo "| $peer | ${value[rotation/$peer/lost]} | ${value[rotation/$peer/old]} | ${value[rotation/$peer/old_ms]} |" \
      "${value[rotation/$peer/closed]} | $(two_digits "rotation/$peer/change_ms") |" \
      "${value[rotation/$peer/kept_rate]}, ${value[rotation/$peer/new_rate]} |"
  done
}
