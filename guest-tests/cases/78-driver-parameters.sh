# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the driver's parameters (queues, queue depth, polling), and its counters
# driver: virtio_blk_crypto num_request_queues=1 queue_depth=7
# root-port: yes
# queues: 2
# check: fscrypt
# stat: keyslots.nokey == 0

queues=$(find "$BLOCK/mq" -mindepth 1 -maxdepth 1 -type d | wc -l)
[ "$queues" = 1 ] || fail "$queues queues, not 1"
[ "$(cat "$BLOCK/mq/0/nr_tags")" = 7 ] || fail "$(cat "$BLOCK/mq/0/nr_tags") requests in a queue, not 7"
note 'a change of the limit applies to other disks only: this disk survives a reset'
echo 2 > /sys/module/virtio_blk_crypto/parameters/num_request_queues
! kernel_tells_of_function_resets || echo 1 > "$FUNCTION/reset"

refuse_parameter poll_us 1001
refuse_parameter poll_us -1
for time in 1000 0; do
	echo $time > /sys/module/virtio_blk_crypto/parameters/poll_us
	before=$(counter commands)
	[ $time = 0 ] || secret_tree
	[ $time = 1000 ] || secret_tree_is_right
	[ "$(counter commands)" -gt "$before" ] || fail 'no command was counted'
	[ ! -d "$MNT/secret" ] || umount "$MNT"
done
for name in refused nokey_retries reprograms; do
	[ "$(counter $name)" = 0 ] || fail "$name: $(counter $name)"
done
