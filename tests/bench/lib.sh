# What the bench starts and how it is configured. Sourced by tests/bench/run, which sets `root`
# (the repository), `dir` (the run's own folder) and `portcullis` (the binary).

fail() {
  echo "bench: $1" >&2
  tail -n 3 "$dir"/*.log >&2 || true
  exit 1
}

# --- ports, certificates --------------------------------------------------------------------------

port_is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

given_ports=' '
# Sets the variable named $1 to a free port below the range the system gives out by itself.
free_port() {
  local port tries
  for ((tries = 0; tries < 200; tries++)); do
    port=$((20000 + RANDOM % 10000))
    if [[ $given_ports != *" $port "* ]] && ! port_is_taken "$port"; then
      given_ports+="$port "
      printf -v "$1" %s "$port"
      return
    fi
  done
  fail "no free port found"
}

# P-256 throughout: one CA; a server, the proxy towards the upstream, a client, the upstream.
make_pki() {
  local name
  mkdir -p "$dir/pki"
  (
    cd "$dir/pki"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -keyout ca.key -out ca.crt \
      -days 30 -nodes -subj "/CN=Bench CA"
    issue server bench.test
    for name in gateway client upstream; do issue "$name" "$name.test"; done
  ) 2>"$dir/openssl.log" || fail "openssl failed; see $dir/openssl.log"
}

# By the CA in this folder: a certificate, its key, and both in one.
issue() { # file name, DNS name
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -keyout "$1.key" -out "$1.csr" -nodes -subj "/CN=$1"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$1.crt" -days 30 \
    -extfile <(printf 'subjectAltName=DNS:%s\n' "$2")
  cat "$1.crt" "$1.key" >"$1.pem"
}

# --- processes ------------------------------------------------------------------------------------

started=()

start() { # log file, command…; its process id is in started_pid
  local log=$1
  shift
  "$@" >"$log" 2>&1 </dev/null &
  started_pid=$!
  started+=("$started_pid")
}

stop_all() {
  local pid
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  started=()
}

stop() { # process id
  local pid kept=()
  kill "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
  for pid in "${started[@]}"; do [ "$pid" = "$1" ] || kept+=("$pid"); done
  started=("${kept[@]}")
}

wait_until() { # what, seconds, command…
  local what=$1 tries=$(($2 * 10))
  shift 2
  while ((tries-- > 0)); do
    if "$@"; then return; fi
    kill -0 "${started[-1]}" 2>/dev/null || break
    sleep 0.1
  done
  fail "$what did not come up"
}

# A process and its descendants.
family() {
  local child
  echo "$1"
  for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do family "$child"; done
}

# --- peers ----------------------------------------------------------------------------------------

# Whether each proxy writes an access record per request: off or on. Each writes its own usual one to a
# file: nginx `combined`, HAProxy `httplog`, the gateway its JSON line.
access_log=off

# How many workers each proxy has.
workers=1

# Every nginx here: own folder.
nginx_common() { # where its access log goes
  cat <<CONF
error_log stderr error;
pid nginx.pid;
user $(id -un) $(id -gn);
daemon off;
worker_processes $workers;
events { worker_connections 4096; }
http {
access_log $1;
keepalive_requests 1000000000;
client_body_temp_path tmp-body; proxy_temp_path tmp-proxy; fastcgi_temp_path tmp-fastcgi;
uwsgi_temp_path tmp-uwsgi; scgi_temp_path tmp-scgi;
client_max_body_size 0;
ssl_protocols TLSv1.3;
CONF
}

start_upstream() {
  free_port upstream_tls
  free_port upstream_plain
  free_port upstream_grpc
  mkdir -p "$dir/upstream"
  {
    nginx_common off
    cat <<CONF
default_type text/plain;
upstream own { server 127.0.0.1:$upstream_plain; keepalive 64; keepalive_requests 1000000000; }
server {
listen 127.0.0.1:$upstream_plain;
location / { return 200 "hello from the upstream\n"; }
}
server {
listen 127.0.0.1:$upstream_tls ssl;
server_name upstream.test;
ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
ssl_certificate $dir/pki/upstream.crt; ssl_certificate_key $dir/pki/upstream.key;
ssl_client_certificate $dir/pki/ca.crt; ssl_verify_client on;
location / { return 200 "hello from the upstream\n"; }
location = /large { root .; }
# Answers when it has all of a body; what it sends on is nothing.
location = /upload {
client_body_buffer_size 64m;
proxy_pass http://127.0.0.1:$upstream_plain/; proxy_method GET; proxy_pass_request_body off; proxy_set_header Content-Length "";
}
}
server {
listen 127.0.0.1:$upstream_grpc ssl http2;
server_name upstream.test;
ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
ssl_certificate $dir/pki/upstream.crt; ssl_certificate_key $dir/pki/upstream.key;
ssl_client_certificate $dir/pki/ca.crt; ssl_verify_client on;
default_type application/grpc;
add_trailer grpc-status 0;
# To a proxy a message is bytes; what the plain server answers stands for one. Like a server of gRPC this
# answers when it has the message: nginx as a proxy takes an earlier answer's end of the stream for an error.
location / {
proxy_pass http://own/; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_method GET; proxy_pass_request_body off; proxy_set_header Content-Length "";
proxy_hide_header Content-Type; add_header Content-Type application/grpc;
}
}
}
CONF
  } >"$dir/upstream/nginx.conf"
  truncate -s 256M "$dir/upstream/large"
  start "$dir/upstream.log" "$nginx" -p "$dir/upstream" -c nginx.conf -e stderr
  wait_until "the upstream" 10 port_is_taken "$upstream_tls"
}

# nginx as the proxy. `with-headers` sets the forwarded headers that the gateway always sets.
start_nginx() { # folder name, with-headers|bare, wrapper…
  local name=$1 headers=''
  [ "$2" = bare ] || headers='
proxy_set_header X-Real-IP $remote_addr;
proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header X-Forwarded-Host $http_host;
proxy_set_header X-Forwarded-Port $server_port;'
  shift 2
  free_port tls_port
  free_port plain_port
  mkdir -p "$dir/$name"
  {
    # callgrind cannot be told anything once a process has forked: master and worker in one.
    [ $# -eq 0 ] || echo "master_process off;"
    nginx_common "$([ "$access_log" = off ] && echo off || echo "$dir/$name/access.log")"
    cat <<CONF
upstream tls { server 127.0.0.1:$upstream_tls; keepalive 64; keepalive_requests 1000000000; }
upstream plain { server 127.0.0.1:$upstream_plain; keepalive 64; keepalive_requests 1000000000; }
upstream grpc { server 127.0.0.1:$upstream_grpc; keepalive 64; keepalive_requests 1000000000; }
grpc_ssl_certificate $dir/pki/gateway.crt; grpc_ssl_certificate_key $dir/pki/gateway.key;
grpc_ssl_trusted_certificate $dir/pki/ca.crt; grpc_ssl_verify on;
grpc_ssl_name upstream.test; grpc_ssl_server_name on; grpc_ssl_protocols TLSv1.3;
# As the others: a body is passed on as it comes.
proxy_request_buffering off;
proxy_http_version 1.1;
proxy_set_header Connection "";
proxy_set_header Host \$http_host;$headers
proxy_ssl_certificate $dir/pki/gateway.crt; proxy_ssl_certificate_key $dir/pki/gateway.key;
proxy_ssl_trusted_certificate $dir/pki/ca.crt; proxy_ssl_verify on;
proxy_ssl_name upstream.test; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;
server {
listen 127.0.0.1:$tls_port ssl http2;
server_name bench.test;
ssl_certificate $dir/pki/server.crt; ssl_certificate_key $dir/pki/server.key;
ssl_client_certificate $dir/pki/ca.crt; ssl_verify_client on;
location / { proxy_pass https://tls; }
location /bench.Echo/ { grpc_pass grpcs://grpc; }
}
server {
listen 127.0.0.1:$plain_port;
server_name plain.test;
location / { proxy_pass http://plain; }
}
}
CONF
  } >"$dir/$name/nginx.conf"
  start "$dir/$name.log" "$@" "$nginx" -p "$dir/$name" -c nginx.conf -e stderr
  wait_until "nginx" 60 port_is_taken "$plain_port"
}

# Every HAProxy here.
haproxy_common() {
  free_port stats_port
  cat <<CONF
global
  stats socket ipv4@127.0.0.1:$stats_port level admin
  nbthread $workers
  maxconn 4096
$([ "$access_log" = off ] || echo "  log stdout format raw local0")
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode http
  http-reuse always
$([ "$access_log" = off ] || printf '  log global\n  option httplog\n')
  timeout client 60s
  timeout server 60s
  timeout connect 10s
CONF
}

start_haproxy() { # folder name, wrapper…
  local name=$1
  shift
  free_port tls_port
  free_port plain_port
  mkdir -p "$dir/$name"
  {
    haproxy_common
    cat <<CONF
frontend tls
  bind 127.0.0.1:$tls_port ssl crt $dir/pki/server.pem ca-file $dir/pki/ca.crt verify required alpn h2,http/1.1
  use_backend grpc if { path_beg /bench.Echo/ }
  default_backend tls
frontend plain
  bind 127.0.0.1:$plain_port
  default_backend plain
backend tls
  server one 127.0.0.1:$upstream_tls ssl crt $dir/pki/gateway.pem ca-file $dir/pki/ca.crt verify required verifyhost upstream.test sni str(upstream.test)
backend grpc
  server one 127.0.0.1:$upstream_grpc ssl alpn h2 crt $dir/pki/gateway.pem ca-file $dir/pki/ca.crt verify required verifyhost upstream.test sni str(upstream.test)
backend plain
  server one 127.0.0.1:$upstream_plain
CONF
  } >"$dir/$name/haproxy.cfg"
  start "$dir/$name.log" "$@" haproxy -db -f "$dir/$name/haproxy.cfg"
  wait_until "HAProxy" 60 port_is_taken "$plain_port"
}

admin() { # method, path, body
  local reply status
  reply=$(curl -sS --max-time 300 -w '\n%{http_code}' -X "$1" -H "X-API-KEY: bench" -d "$3" \
    "http://127.0.0.1:$admin_port/apisix/admin/$2") || fail "the Admin API did not answer"
  status=${reply##*$'\n'}
  [[ $status == 20[01] ]] || fail "the Admin API says: $reply"
}

pem() { awk 1 ORS='\\n' "$dir/pki/$1"; }

# How it keeps connections to upstreams.
gateway_pool='"keepalive_pool": {"size": 64, "idle_timeout": 60, "requests": 1000000000}'

# A gateway with nothing in it, or with what a file declares.
serve_gateway() { # folder name, binary, off|required, file or nothing, wrapper…
  local name=$1 binary=$2 fips=$3 file=$4 setting
  shift 4
  free_port tls_port
  free_port plain_port
  free_port admin_port
  mkdir -p "$dir/$name"
  : >"$dir/$name.yaml"
  local settings=(
    "data_dir=$dir/$name" "workers=$workers" "access_log=$([ "$access_log" = off ] && echo off || echo "$dir/$name/access.log")" "log.level=warn"
    "http.listen=[\"127.0.0.1:$plain_port\"]" "https.listen=[\"127.0.0.1:$tls_port\"]"
    "admin.listen=[\"127.0.0.1:$admin_port\"]" "admin.https.listen=[]" "status.listen=[]"
    "fips=$fips" "fips_module_dir=$root/fips/out"
    # Under callgrind, on a machine that does other things too, handshakes take seconds each.
    "https.handshake_timeout=300s"
  )
  local args=()
  for setting in "${settings[@]}"; do args+=(--set "$setting"); done
  # What a file declares lies on disk, as by default: many objects do not belong into memory.
  if [ -n "$file" ]; then args+=(--standalone "$file"); else args+=(--set store=memory); fi
  start "$dir/$name.log" env PORTCULLIS_ADMIN_KEY=bench "$@" "$binary" serve --config "$dir/$name.yaml" "${args[@]}"
}

# The ssl that clients meet, with one of the certificates.
bench_ssl() { # file name
  echo "{\"cert\": \"$(pem "$1.crt")\", \"key\": \"$(pem "$1.key")\", \"snis\": [\"bench.test\"],
    \"client\": {\"ca\": \"$(pem ca.crt)\"}}"
}

start_gateway() { # folder name, binary, off|required, wrapper…
  serve_gateway "$1" "$2" "$3" '' "${@:4}"
  wait_until "the gateway" 120 port_is_taken "$admin_port"
  wait_until "the gateway" 60 port_is_taken "$plain_port"
  admin PUT ssls/bench "$(bench_ssl server)"
  admin PUT routes/tls "{\"uri\": \"/*\", \"host\": \"bench.test\", \"upstream\": {\"type\": \"roundrobin\",
    \"scheme\": \"https\", \"pass_host\": \"rewrite\", \"upstream_host\": \"upstream.test\",
    \"nodes\": {\"127.0.0.1:$upstream_tls\": 1}, $gateway_pool, \"tls\": {\"verify\": true, \"ca_certs\": [\"$(pem ca.crt)\"],
    \"client_cert\": \"$(pem gateway.crt)\", \"client_key\": \"$(pem gateway.key)\"}}}"
  admin PUT routes/grpc "{\"uri\": \"/bench.Echo/*\", \"host\": \"bench.test\", \"upstream\": {\"type\": \"roundrobin\",
    \"scheme\": \"grpcs\", \"pass_host\": \"rewrite\", \"upstream_host\": \"upstream.test\",
    \"nodes\": {\"127.0.0.1:$upstream_grpc\": 1}, $gateway_pool, \"tls\": {\"verify\": true, \"ca_certs\": [\"$(pem ca.crt)\"],
    \"client_cert\": \"$(pem gateway.crt)\", \"client_key\": \"$(pem gateway.key)\"}}}"
  admin PUT routes/plain "{\"uri\": \"/*\", \"host\": \"plain.test\", \"upstream\": {\"type\": \"roundrobin\",
    \"scheme\": \"http\", \"nodes\": {\"127.0.0.1:$upstream_plain\": 1}, $gateway_pool}}"
}
