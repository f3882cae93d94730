# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the same with in-band access
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band
# host: ctl fault add stuck,op=program => fault
# host: ctl fault clear => 1 faults are cleared
# check: fscrypt
# errors: expected
# stat: events.fault == 1

unanswered_command_case
