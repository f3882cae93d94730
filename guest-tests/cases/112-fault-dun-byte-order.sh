# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: broken hardware, and the verifier catches it: data unit numbers in the wrong byte order
# device: --fault dun-byte-order
# check: fscrypt
# expect-wrong: (the right one, its bytes in reverse)
# wrong-share: 100
# stat: events.fault > 0
# stat: keyslots.nokey == 0

broken_case ino-lblk-64 unnoticed
