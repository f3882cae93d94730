# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: broken hardware, and the verifier catches it: a bit flipped in every third data unit
# device: --fault bit-flip=3,bit=4000
# check: fscrypt
# expect-wrong: 4080 of its 4096 bytes are right
# wrong-share: 30-40
# stat: events.fault > 0
# stat: keyslots.nokey == 0

broken_case per-file unnoticed
