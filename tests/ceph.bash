# A Ceph cluster on loopback for the script that sources this (after processes.bash): a monitor, a manager and three OSDs,
# three copies. It is set up by hand from the distribution's packages, because Ceph's own tools want containers or
# systemd; all its files are in $ceph, and its processes are among `pids`.

ceph=${folder:?comes from processes.bash}/ceph

# Settings that make it fast on such a machine, and keep it inside $ceph.
ceph_conf() { # MONITOR OSD-BYTES
  cat <<END
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon_initial_members = a
mon_host = $1
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
ms_bind_msgr1 = false
auth_allow_insecure_global_id_reclaim = false
keyring = $ceph/admin.keyring
admin_socket =
pid_file =
crash_dir = $ceph
log_to_file = false
log_to_stderr = true
mon_cluster_log_to_file = false
# Copies on OSDs of one host are good enough here.
osd_pool_default_size = 3
osd_pool_default_min_size = 2
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_autoscale_mode = off
mon_data_avail_crit = 1
# Debug messages are gathered in memory even where nobody reads them, which costs CPU time: off, all of them.
$(ceph-conf -c /dev/null --show-config | sed -n 's,^\(debug_[a-z_]*\) = .*,\1 = 0/0,p')

[mon]
mon_data = $ceph/mon
keyring = $ceph/mon/keyring

[mgr]
mgr_data = $ceph/mgr
keyring = $ceph/mgr/keyring
mgr_initial_modules = iostat

[osd]
osd_data = $ceph/osd\$id
keyring = $ceph/osd\$id/keyring
bluestore_block_size = $2
# What an OSD chooses by itself on a disk that does not rotate. It looks at the disk's flag, which is often wrong for the
# disks of virtual machines.
bluestore_debug_enforce_settings = ssd
osd_op_num_shards = 8
osd_op_num_threads_per_shard = 2
END
}

ceph_clean() { # whether three OSDs are up, and all placement groups have all their copies
  ceph --connect-timeout 10 status --format json | jq -e '.osdmap.num_up_osds == 3 and .pgmap.num_pgs > 0 and
    ([.pgmap.pgs_by_state[] | select(.state_name | startswith("active+clean")) | .count] | add) == .pgmap.num_pgs'
}

ceph_await_clean() { # SECONDS
  local end=$((SECONDS + $1))
  until ceph_clean >/dev/null; do
    [ $SECONDS -lt $end ] || fail "Ceph is not clean after $1 s"
    sleep 0.2
  done
}

ceph_osd_up() { # N BYTES
  local uuid key data=$ceph/osd$1
  mkdir "$data"
  # Written once, as a disk is: no write of Ceph's has to allocate space in the file system below it.
  dd if=/dev/zero of="$data/block" bs=4M count="$2" iflag=count_bytes oflag=direct status=none
  uuid=$(cat /proc/sys/kernel/random/uuid)
  key=$(ceph-authtool --gen-print-key)
  ceph osd new "$uuid" -i - <<<"{\"cephx_secret\": \"$key\"}"
  ceph-authtool --create-keyring "$data/keyring" --name "osd.$1" --add-key "$key"
  ceph-osd -i "$1" --mkfs --osd-uuid "$uuid"
  start "ceph-osd$1" ceph-osd -f -i "$1"
}

ceph_bootstrap() { # IMAGE MEBIBYTES
  local n port monitor osd_bytes
  port=$(free_port) monitor="[v2:127.0.0.1:$port]"
  # The volume, as much again by half for what random writes leave behind, and Ceph's own needs.
  osd_bytes=$((($2 * 3 / 2 + 4096) << 20))
  mkdir "$ceph" "$ceph/mon" "$ceph/mgr"
  ceph_conf "$monitor" "$osd_bytes" >"$CEPH_CONF"
  ceph-authtool --create-keyring "$ceph/mon.keyring" --gen-key -n mon. --cap mon 'allow *'
  ceph-authtool --create-keyring "$ceph/admin.keyring" --gen-key -n client.admin \
    --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
  ceph-authtool "$ceph/mon.keyring" --import-keyring "$ceph/admin.keyring"
  monmaptool --create --addv a "$monitor" --fsid "$(ceph-conf --lookup fsid)" "$ceph/monmap"
  ceph-mon -i a --mkfs --monmap "$ceph/monmap" --keyring "$ceph/mon.keyring"
  start ceph-mon ceph-mon -f -i a
  wait_for 30 answers "127.0.0.1:$port"
  ceph auth get-or-create mgr.x mon 'allow profile mgr' osd 'allow *' mds 'allow *' -o "$ceph/mgr/keyring"
  start ceph-mgr ceph-mgr -f -i x
  for n in 0 1 2; do ceph_osd_up $n "$osd_bytes"; done
  ceph osd pool create rbd 64 64 replicated
  ceph_await_clean 120
  rbd pool init rbd
  # Without object-map and fast-diff, which are on by default: with them, qemu-nbd asks for a diff before each read, and
  # reads are half as fast.
  rbd create "rbd/$1" --size "${2}M" --image-feature layering,exclusive-lock,deep-flatten
}

# Brings the cluster up, with an image of the size.
ceph_up() { # IMAGE MEBIBYTES
  export CEPH_CONF=$ceph/ceph.conf
  ceph_bootstrap "$@" >>"$folder/ceph.log" 2>&1
}

ceph_image() { echo "rbd:rbd/$1:id=admin:conf=$CEPH_CONF"; } # IMAGE: its name for qemu

ceph_down() {
  local name
  # Nothing of it is needed any more, so there is nothing that it would have to end in order.
  for name in ceph-osd0 ceph-osd1 ceph-osd2 ceph-mgr ceph-mon; do kill9 $name; done
  rm -rf "$ceph"
}
