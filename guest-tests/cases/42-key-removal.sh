# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: removing a key evicts it from the device and locks its files, adding it again unlocks them
# check: fscrypt
# stat: keyslots.evict > 0
# stat: keyslots.nokey == 0

key_removal_case
