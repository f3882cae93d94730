# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the disk is frozen and restored while files are open: their keys are programmed again, nothing is lost
# device: --keyslots 4
# needs: CONFIG_HIBERNATION
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.lost > 0
# stat: keyslots.nokey == 0

freeze_case
