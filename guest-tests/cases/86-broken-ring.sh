# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the device breaks a ring under I/O, first of requests, then of commands: unbind does not hang, bind repairs it, no key is mistaken for another
# device: --keyslots 1
# queues: 2
# needs: fio
# host: break-ring
# host: break-ring
# host: break-ring
# check: fscrypt
# errors: expected
# stat: requests.crypto_out > 0

broken_ring_case 0:req.0 2:control
unknown_key_case 2
