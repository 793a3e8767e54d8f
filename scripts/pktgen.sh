#!/usr/bin/env bash
# pktgen.sh -i INTERFACE -m MAC -d VIP [-p PORT] [-n PACKETS] [-f FLOWS] [-t THREADS] [-s BYTES] [-r PACKETS_PER_SECOND]
#
# Sends UDP packets to a service out of a real network card, with the kernel's pktgen, and says how many a second it
# sent. To be run on the client's machine, as root; MAC is the balancer's (or the router's before it). On the balancer,
# `lvx stats` shows what arrived, on the backends `ip -s link`.
#
#   -n  packets in all, 10,000,000 by default; 0 sends until Ctrl-C
#   -f  flows, 1 by default: as many client addresses, from 198.18.0.1 on (RFC 2544), at random
#   -t  threads, 1 by default, each on a CPU and a queue of its own
#   -s  bytes of a frame on the wire, 64 by default
#   -r  packets per second in all, as many as possible by default
set -euo pipefail

fail() { printf 'pktgen.sh: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2s/^# /usage: /p' "$0" >&2; exit 2; }

interface='' mac='' vip='' port=80 packets=10000000 flows=1 threads=1 bytes=64 rate=0
while getopts i:m:d:p:n:f:t:s:r: option; do
  case $option in
    i) interface=$OPTARG ;;
    m) mac=$OPTARG ;;
    d) vip=$OPTARG ;;
    p) port=$OPTARG ;;
    n) packets=$OPTARG ;;
    f) flows=$OPTARG ;;
    t) threads=$OPTARG ;;
    s) bytes=$OPTARG ;;
    r) rate=$OPTARG ;;
    *) usage ;;
  esac
done
[ -n "$interface" ] && [ -n "$mac" ] && [ -n "$vip" ] || usage
for number in "$port" "$packets" "$flows" "$threads" "$bytes" "$rate"; do
  case $number in '' | *[!0-9]*) fail "$number is no number" ;; esac
done
case $vip in *:*) fail "$vip: IPv4 only" ;; esac
[ "$(id -u)" = 0 ] || fail "pktgen needs root"
ip link show dev "$interface" >/dev/null 2>&1 || fail "there is no interface $interface"
[ "$bytes" -ge 64 ] && [ "$bytes" -le 1518 ] || fail "a frame has 64 to 1518 bytes"
[ "$flows" -ge 1 ] && [ "$flows" -le 131072 ] || fail "flows: 1 to 131072, as many as 198.18.0.0/15 has addresses"
[ "$threads" -ge 1 ] && [ "$threads" -le "$(nproc)" ] || fail "threads: 1 to $(nproc) on this machine"

files=/proc/net/pktgen
[ -e $files ] || modprobe pktgen 2>/dev/null || fail "this kernel has no pktgen (CONFIG_NET_PKTGEN)"

put() { printf '%s\n' "$2" >"$files/$1" 2>/dev/null || fail "$1 does not take \"$2\""; }
stop() { for thread in "$files"/kpktgend_*; do printf 'rem_device_all\n' >"$thread"; done; }
trap stop EXIT
stop

# Client addresses: a number as an address of 198.18.0.0/15.
address() { printf '198.%d.%d.%d' $((18 + ($1 >> 16))) $((($1 >> 8) & 255)) $(($1 & 255)); }
last=$flows
[ "$last" -le 131071 ] || last=131071

for ((thread = 0; thread < threads; thread++)); do
  device=$interface@$thread
  put kpktgend_$thread "add_device $device"
  put "$device" "count $((packets / threads))"
  put "$device" "clone_skb 0"
  # Four bytes of a frame on the wire are its checksum, which the card adds.
  put "$device" "pkt_size $((bytes - 4))"
  put "$device" "delay 0"
  [ "$rate" = 0 ] || put "$device" "ratep $((rate / threads))"
  put "$device" "dst_mac $mac"
  put "$device" "dst $vip"
  put "$device" "src_min $(address 1)"
  put "$device" "src_max $(address "$last")"
  put "$device" "udp_src_min 1024"
  put "$device" "udp_src_max 1024"
  put "$device" "udp_dst_min $port"
  put "$device" "udp_dst_max $port"
  put "$device" "flag QUEUE_MAP_CPU"
  [ "$flows" = 1 ] || put "$device" "flag IPSRC_RND"
done

printf 'sending %s packets of %s bytes to %s port %s, %s flows, %s threads\n' \
  "$([ "$packets" = 0 ] && echo endless || echo "$packets")" "$bytes" "$vip" "$port" "$flows" "$threads"
# Ends when all is sent, or by Ctrl-C.
trap ':' INT
printf 'start\n' >"$files/pgctrl" || true
trap - INT

total=0
for ((thread = 0; thread < threads; thread++)); do
  result=$(grep -A 2 '^Result:' "$files/$interface@$thread") || fail "thread $thread says nothing"
  # "  1234567pps 790Mb/sec (790123456bps) errors: 0"
  speed=$(printf '%s\n' "$result" | sed -n 's/^ *\([0-9]*\)pps.*/\1/p')
  errors=$(printf '%s\n' "$result" | sed -n 's/.*errors: *\([0-9]*\).*/\1/p')
  printf 'thread %s: %s packets per second, %s errors\n' "$thread" "${speed:-0}" "${errors:-0}"
  total=$((total + ${speed:-0}))
done
printf 'together: %s packets per second\n' "$total"
