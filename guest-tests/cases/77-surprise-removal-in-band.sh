# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the same with in-band access
# attach: vhost-user-blk
# driver: virtio_blk_crypto in_band=1
# device: --in-band
# root-port: yes
# needs: fio
# check: fscrypt
# errors: expected
# stat: requests.crypto_out > 0

surprise_removal_case
