# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a disk without keyslots is frozen and restored while files are open: there is no key to program again, and nothing is lost
# device: --keyslots 0
# needs: CONFIG_HIBERNATION
# check: fscrypt
# stat: requests.crypto_out > 0
# stat: requests.crypto_in > 0
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0
# stat: keyslots.lost == 0

freeze_case
