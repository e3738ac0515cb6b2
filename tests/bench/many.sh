# Proxies with many certificates, or with many routes: the works `certificates` and `routes`. Sourced by
# tests/bench/run after lib.sh; the access log is off.
#
# What they load are files, as each has them: nginx a server block for each certificate and a `location =`
# for each route, HAProxy a crt-list and a map, the gateway a standalone file.

# Starts a peer on what was written for it, and says what that took: time until a client is served, in
# steps of a tenth of a second, processor time and memory.
start_loaded() { # what, peer, port, client's arguments…
  local what=$1 peer=$2 port=$3 began=${EPOCHREALTIME/./} name=$1.$2
  shift 3
  case $peer in
  gateway*) serve_gateway "$name" "$(binary_of "$peer")" "$(fips_of "$peer")" "$dir/$what.json" ;;
  nginx) start "$dir/$name.log" "$nginx" -p "$dir/$name" -c nginx.conf -e stderr ;;
  haproxy) start "$dir/$name.log" haproxy -db -f "$dir/$name/haproxy.cfg" ;;
  *) fail "what files has $peer?" ;;
  esac
  wait_until "$peer with $what" 600 port_is_taken "${!port}"
  # The kernel takes connections before they are served.
  "$load" --target "127.0.0.1:${!port}" "$@" --connections 1 --requests 1 --seconds 600 >/dev/null 2>"$dir/load.log" ||
    fail "$peer does not serve what it loaded"
  value[$what/$peer/seconds]=$(awk -v us=$((${EPOCHREALTIME/./} - began)) 'BEGIN { printf "%.2f", us / 1e6 }')
  value[$what/$peer/cpu]=$(cpu_seconds "$started_pid")
  value[$what/$peer/memory]=$(memory_kib "$started_pid" | awk '{ printf "%.1f", $1 / 1024 }')
  value[$what/$peer/peak]=$(peak_kib "$started_pid" | awk '{ printf "%.1f", $1 / 1024 }')
}

# Of a process and its descendants, with the threads that ended: loading has some.
cpu_seconds() { # process
  local pid
  for pid in $(family "$1"); do sed 's/.*) //' "/proc/$pid/stat"; done |
    awk -v ticks="$ticks" '{ sum += $12 + $13 } END { printf "%.2f", sum / ticks }'
}

# The most that one of them had: what a master read its workers share.
peak_kib() { # process
  local pid
  for pid in $(family "$1"); do sed -n 's/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status"; done | sort -n | tail -n 1
}

print_loaded() { # what it was, with its size
  local peer
  echo
  echo "| ${1%%-*} | s until one is served | CPU s | MB, proportional share | MB at most |"
  echo "|---|---:|---:|---:|---:|"
  for peer in "${many_peers[@]}"; do
    echo "| $peer | $(two_digits "$1/$peer/seconds") | $(two_digits "$1/$peer/cpu") | $(whole "$1/$peer/memory") | $(whole "$1/$peer/peak") |"
  done
}

# Those that have files of their own.
many_peers=()
for peer in "${peers[@]}"; do [ "$peer" = nginx-headers ] || many_peers+=("$peer"); done

# --- certificates ---------------------------------------------------------------------------------

measure_certificates() {
  local peer what="certificates-$certificates" folder="$dir/certificates" last="name-$((certificates - 1)).scale.test"
  say "making $certificates certificates"
  "$scale" --write "$folder" --ssls "$certificates" || fail "no certificates"
  for peer in "${many_peers[@]}"; do
    say "loading $certificates certificates into $peer"
    "write_certificates_${peer%%-*}" "$what" "$folder" "$dir/$what.$peer"
    start_loaded "$what" "$peer" tls_port --name "$last" --ca "$folder/ca.crt" \
      --cert "$folder/client.crt" --key "$folder/client.crt.key"
    stop "$started_pid"
  done
  rm -r "$folder"
  {
    echo
    echo "$certificates certificates with a key each, for clients with a certificate:"
    print_loaded "$what"
  } >>"$out/table.md"
}

write_certificates_nginx() { # what, their folder, own folder
  free_port tls_port
  mkdir -p "$3"
  {
    nginx_common off
    cat <<CONF
server_names_hash_max_size $((certificates * 4)); server_names_hash_bucket_size 128;
ssl_client_certificate $2/ca.crt; ssl_verify_client on;
upstream plain { server 127.0.0.1:$upstream_plain; keepalive 64; }
CONF
    seq 0 $((certificates - 1)) | awk -v port="$tls_port" -v folder="$2" '{
      printf "server { listen 127.0.0.1:%d ssl; server_name name-%d.scale.test;\n", port, $1
      printf "ssl_certificate %s/%d.crt; ssl_certificate_key %s/%d.crt.key;\n", folder, $1, folder, $1
      print "location / { proxy_pass http://plain; } }" }'
    echo "}"
  } >"$3/nginx.conf"
}

# Keys are found beside their certificates.
write_certificates_haproxy() { # what, their folder, own folder
  free_port tls_port
  mkdir -p "$3"
  seq 0 $((certificates - 1)) | awk -v folder="$2" '{ printf "%s/%d.crt name-%d.scale.test\n", folder, $1, $1 }' >"$3/crt-list"
  {
    haproxy_common
    cat <<CONF
frontend tls
  bind 127.0.0.1:$tls_port ssl crt-list $3/crt-list ca-file $2/ca.crt verify required
  default_backend plain
backend plain
  server one 127.0.0.1:$upstream_plain
CONF
  } >"$3/haproxy.cfg"
}

write_certificates_gateway() { # what, their folder
  {
    printf '{"routes": [{"id": "all", "uri": "/*", "upstream": {"type": "roundrobin", "nodes": {"127.0.0.1:%s": 1}}}], ' "$upstream_plain"
    tail -c +2 "$2/declared.json"
  } >"$dir/$1.json"
}

# --- routes ---------------------------------------------------------------------------------------

route_path() { echo "/api/v1/route-$1/items"; }

measure_routes() {
  local peer size round before requests=(--connections "$clients" --path "$(route_path '{}')" --seconds 600)
  local -A top=() port=()
  rm -f "$dir"/routes.cpu.*
  for size in 10 "$routes"; do
    for peer in "${many_peers[@]}"; do
      say "loading $size routes into $peer"
      "write_routes_${peer%%-*}" "routes-$size" "$size" "$dir/routes-$size.$peer"
      start_loaded "routes-$size" "$peer" plain_port --name plain.test --path "$(route_path $((size - 1)))"
      top[$peer/$size]=$started_pid port[$peer/$size]=$plain_port
    done
  done
  say "measuring requests among 10 and $routes routes, $rounds rounds"
  for ((round = 0; round <= rounds; round++)); do
    for peer in "${many_peers[@]}"; do
      for size in 10 "$routes"; do
        before=$(cpu_ns "${top[$peer/$size]}")
        "$load" --target "127.0.0.1:${port[$peer/$size]}" --name plain.test --spread "$size" "${requests[@]}" \
          --requests "$cpu_requests" >/dev/null 2>"$dir/load.log" || fail "the load on $peer with $size routes failed"
        # The first round warms up.
        [ "$round" = 0 ] || awk -v ns=$(($(cpu_ns "${top[$peer/$size]}") - before)) -v n="$cpu_requests" \
          'BEGIN { printf "%.4f\n", ns / n / 1000 }' >>"$dir/routes.cpu.$peer.$size"
      done
    done
  done
  stop_all
  start_upstream
  {
    echo
    echo "$routes routes, then GETs in the clear by 10 and by all of them, in no order:"
    print_loaded "routes-$routes"
    echo
    echo "| GETs in the clear | CPU ms per 1,000 among 10 routes | among $routes | × |"
    echo "|---|---:|---:|---:|"
    for peer in "${many_peers[@]}"; do
      for size in 10 "$routes"; do value[routes-$size/$peer/request]=$(median <"$dir/routes.cpu.$peer.$size"); done
      value[routes-$routes/$peer/request_ratio]=$(paste "$dir/routes.cpu.$peer.$routes" "$dir/routes.cpu.$peer.10" | awk '{ print $1 / $2 }' | median)
      echo "| $peer | $(two_digits "routes-10/$peer/request") | $(two_digits "routes-$routes/$peer/request") |" \
        "$(two_digits "routes-$routes/$peer/request_ratio") |"
    done
  } >>"$out/table.md"
}

# Those of so many routes, one a line.
route_paths() { seq 0 $(($1 - 1)) | sed "s|.*|$(route_path '&')|"; }

write_routes_nginx() { # what, how many, own folder
  free_port plain_port
  mkdir -p "$3"
  {
    nginx_common off
    cat <<CONF
upstream plain { server 127.0.0.1:$upstream_plain; keepalive 64; keepalive_requests 1000000000; }
proxy_http_version 1.1;
proxy_set_header Connection "";
server {
listen 127.0.0.1:$plain_port;
server_name plain.test;
CONF
    # It sorts them by insertion, which takes ten times as long when they are in the order of their numbers.
    route_paths "$2" | sort | sed 's|.*|location = & { proxy_pass http://plain; }|'
    echo "}"
    echo "}"
  } >"$3/nginx.conf"
}

write_routes_haproxy() { # what, how many, own folder
  free_port plain_port
  mkdir -p "$3"
  route_paths "$2" | sed 's|$| plain|' >"$3/routes.map"
  {
    haproxy_common
    cat <<CONF
frontend plain
  bind 127.0.0.1:$plain_port
  use_backend %[path,map($3/routes.map)]
backend plain
  server one 127.0.0.1:$upstream_plain
CONF
  } >"$3/haproxy.cfg"
}

write_routes_gateway() { # what, how many
  {
    printf '{"upstreams": [{"id": "plain", "type": "roundrobin", "nodes": {"127.0.0.1:%s": 1}, %s}], "routes": [' \
      "$upstream_plain" "$gateway_pool"
    route_paths "$2" | awk '{ printf "%s{\"id\": \"%d\", \"host\": \"plain.test\", \"uri\": \"%s\", \"upstream_id\": \"plain\"}", (NR > 1 ? ",\n" : ""), NR, $1 }'
    echo ']}'
  } >"$dir/$1.json"
}
