# What a file system on /dev/nbd0 has to stand; to be sourced. `file_system` calls the caller's `attach` and `detach`.

say() { printf '==> %s\n' "$*"; }

sectors() { cat /sys/block/nbd0/size; } # of 512 bytes
attached() { [ "$(sectors)" -gt 0 ]; }
detached() { [ "$(sectors)" = 0 ]; }

file_system() {
  local mount=$folder/mount
  mkdir "$mount"
  modprobe nbd nbds_max=2

  say 'attach, mkfs.ext4, mount'
  attach
  wait_for 60 attached
  mkfs.ext4 -q /dev/nbd0
  mount /dev/nbd0 "$mount"

  say 'write files, fsync, trim, unmount'
  dd if=/dev/urandom of="$mount/random" bs=1M count=24 conv=fsync status=none
  cp -r /usr/share/perl5 "$mount/tree" 2>/dev/null || cp -r /etc/. "$mount/tree"
  dd if=/dev/zero of="$mount/ballast" bs=1M count=16 conv=fsync status=none
  rm "$mount/ballast"
  sync -f "$mount"
  fstrim "$mount"
  (cd "$mount" && find . -type f -exec sha256sum {} +) >"$folder/sums"
  umount "$mount"

  say 'detach, attach again'
  detach
  wait_for 60 detached
  attach
  wait_for 60 attached

  say 'fsck, mount, compare'
  e2fsck -f -n /dev/nbd0 || fail 'the file system is damaged'
  mount -o ro /dev/nbd0 "$mount"
  (cd "$mount" && sha256sum --quiet -c "$folder/sums") || fail 'the files differ'
  say "$(wc -l <"$folder/sums") files are as they were"
  umount "$mount"
  detach
  wait_for 60 detached
}
