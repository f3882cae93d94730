# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: broken hardware, and the verifier catches it: tweak key and data key swapped
# device: --fault key-halves-swapped
# check: fscrypt
# expect-wrong: (the right one) and the two halves of the key swapped
# wrong-share: 100
# stat: events.fault > 0
# stat: keyslots.nokey == 0

broken_case per-file unnoticed
