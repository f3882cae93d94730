# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the device breaks a ring under I/O, of requests and then of commands: unbind does not wait for it, and all is well after bind
# device: --keyslots 1
# queues: 2
# needs: fio
# host: break-ring
# host: break-ring
# check: fscrypt
# stat: requests.crypto_out > 0

broken_ring_case 0:req.0 2:control
