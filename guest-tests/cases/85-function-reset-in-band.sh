# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the same with in-band access, behind vhost-user-blk-pci
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band
# root-port: yes
# needs: fio
# host: ctl --json status => "writeback": false
# host: ctl --json status => "writeback": false
# check: fscrypt
# stat: keyslots.lost > 0
# stat: keyslots.nokey == 0

function_reset_case

# A reset makes the device forget that. QEMU does not, and neither the kernel nor QEMU tells it again by itself.
echo 'write through' > "$BLOCK/cache_type"
echo 1 > "$FUNCTION/reset"
host_step_done
[ "$(cat "$BLOCK/queue/write_cache")" = 'write through' ] || fail 'a function reset switches the cache'
unbind_disk
bind_disk
host_step_done
[ "$(cat "$BLOCK/queue/write_cache")" = 'write through' ] || fail 'QEMU tells a new driver of another cache'
