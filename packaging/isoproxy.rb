# A template: @BASE_URL@ is where the files of dist/release are published, @VERSION@ is the version without "v", and
# each @SHA256_…@ is that file's line in SHA256SUMS.
class Isoproxy < Formula
  desc "API access for sandboxed agents, without the key"
  homepage "@HOMEPAGE@"
  version "@VERSION@"
  license "MIT"

  on_macos do
    on_arm do
      url "@BASE_URL@/isoproxy-darwin-arm64", using: :nounzip
      sha256 "@SHA256_darwin-arm64@"
    end
    on_intel do
      url "@BASE_URL@/isoproxy-darwin-x64", using: :nounzip
      sha256 "@SHA256_darwin-x64@"
    end
  end
  on_linux do
    on_arm do
      url "@BASE_URL@/isoproxy-linux-arm64", using: :nounzip
      sha256 "@SHA256_linux-arm64@"
    end
    on_intel do
      url "@BASE_URL@/isoproxy-linux-x64", using: :nounzip
      sha256 "@SHA256_linux-x64@"
    end
  end

  # Stripping removes the program from the binary.
  skip_clean "bin"

  def install
    bin.install Dir["isoproxy-*"].first => "isoproxy"
    chmod 0755, bin/"isoproxy"
    generate_completions_from_executable(bin/"isoproxy", "completions")
  end

  service do
    run [opt_bin/"isoproxy", "serve"]
    keep_alive successful_exit: false
    environment_variables BUN_CONFIG_MAX_HTTP_REQUESTS: "65535"
    error_log_path var/"log/isoproxy.log"
  end

  test do
    assert_match "isoproxy #{version}", shell_output("#{bin}/isoproxy version")
  end
end
