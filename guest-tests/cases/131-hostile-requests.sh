# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: malformed requests and commands: each is completed, no head is lost, nothing is written
# driver: none
# needs: CONFIG_HUGETLBFS CONFIG_CRYPTO_USER_API_SKCIPHER
# device: --workers 2 --keyslots 8 --max-dun-bytes 8
# memory: 44M
# check: fscrypt
# stat: events.broken_queue == 0
# stat: requests.refused > 100
# stat: requests.unsupported > 20
# stat: bytes.crypto_out > 3700000000
# stat: bytes.crypto_in > 3700000000

attack requests commands flood
encrypted_files
