# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the same with in-band access: the ring carries requests and commands
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band --keyslots 1
# needs: fio
# host: break-ring
# check: fscrypt
# errors: expected
# stat: requests.crypto_out > 0

broken_ring_case 0:req.0
