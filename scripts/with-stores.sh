#!/usr/bin/env bash
# with-stores.sh command [argument...] runs the command beside a real S3 server and a real Redis, for the tests of
# s3cache and redislock:
#
#	scripts/with-stores.sh go test -race ./s3cache/... ./redislock/...
#
# The command finds them by its environment:
#
#	MODFETCH_TEST_S3      an empty bucket, as a URL for s3cache.Open
#	AWS_ACCESS_KEY_ID     and AWS_SECRET_ACCESS_KEY, the credentials for it, made for this run
#	MODFETCH_TEST_REDIS   an empty Redis, as a redis:// URL
#
# Both listen on free loopback ports and keep their data in a temporary directory; both are gone when the command ends,
# and the exit code is the command's.
#
# What is missing is installed first. versitygw, the S3 server, is built by the go command into a directory of this user's
# cache (80 seconds on two cores; the next run finds it). redis-server is taken from PATH, or else from Debian, which
# needs root.
set -euo pipefail

versitygw=v1.8.0

[ $# -gt 0 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
say() { echo "with-stores.sh: $*" >&2; }

bin=${XDG_CACHE_HOME:-$HOME/.cache}/modfetch/versitygw-$versitygw
if [ ! -x "$bin/versitygw" ]; then
	say "building versitygw $versitygw"
	# Without optimisation it builds in two thirds of the time; the standard library may have been built before.
	GOOS='' GOARCH='' GOFLAGS='' GOBIN=$bin \
		go install -gcflags='...=-N -l' -gcflags=std= -ldflags='-s -w' "github.com/versity/versitygw/cmd/versitygw@$versitygw"
fi
if ! command -v redis-server >/dev/null; then
	[ "$(id -u)" = 0 ] || { say "there is no redis-server in PATH, and installing it needs root"; exit 1; }
	say "installing redis-server"
	{ # RUNLEVEL=1 keeps the package from starting a server of its own.
		apt-get update
		RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends redis-server
	} >/dev/null
fi

dir=$(mktemp -d)
s3='' redis=''
stop() {
	kill $s3 $redis 2>/dev/null || true
	wait $s3 $redis 2>/dev/null || true
	rm -rf "$dir"
}
trap stop EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

AWS_ACCESS_KEY_ID=modfetch-test
AWS_SECRET_ACCESS_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
mkdir -p "$dir/s3/modfetch-test" "$dir/meta" "$dir/redis"

start_s3() {
	ROOT_ACCESS_KEY=$AWS_ACCESS_KEY_ID ROOT_SECRET_KEY=$AWS_SECRET_ACCESS_KEY \
		exec "$bin/versitygw" --quiet --keep-alive --port "127.0.0.1:$1" posix --sidecar "$dir/meta" "$dir/s3"
}
start_redis() {
	exec redis-server --bind 127.0.0.1 --port "$1" --dir "$dir/redis" --save '' --appendonly no
}

# listen starts a server with a function of this script on a free port, and sets pid and port. Nothing here can reserve a
# port, so a server that ends because somebody else was quicker is started on another one.
listen() {
	for _ in 1 2 3 4 5; do
		port=$((10000 + RANDOM % 20000))
		if (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			continue # somebody else's
		fi
		"$1" "$port" </dev/null >"$dir/$1.log" 2>&1 &
		pid=$!
		while kill -0 $pid 2>/dev/null; do
			if (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
				return
			fi
			sleep 0.05
		done
	done
	say "$1 failed:"
	cat "$dir/$1.log" >&2
	exit 1
}
listen start_s3
s3=$pid
MODFETCH_TEST_S3="s3://modfetch-test?endpoint=http://127.0.0.1:$port"
listen start_redis
redis=$pid
MODFETCH_TEST_REDIS="redis://127.0.0.1:$port/0"

export MODFETCH_TEST_S3 MODFETCH_TEST_REDIS AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
"$@"
