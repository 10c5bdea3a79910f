class AnthropicProxy < Formula
  desc "Use Claude Code and every Anthropic SDK with the model that you have"
  homepage "$url"
  url "$url"
  version "$version"
  sha256 "$sha256"
  license "$license"

  depends_on "python@3.13"

  def install
    python = Formula["python@3.13"].opt_bin/"python3.13"
    system python, "-m", "venv", libexec
    system python, "-m", "venv", buildpath/"tools"
    install = ["-m", "pip", "install", "--disable-pip-version-check"]
    system buildpath/"tools/bin/python", *install, "--require-hashes", "--no-deps", "-r", "locks/build.lock"
    system buildpath/"tools/bin/python", "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "wheels", "."
    system libexec/"bin/python", *install, "--require-hashes", "--no-deps", "-r", "locks/runtime.lock"
    system libexec/"bin/python", *install, "--no-deps", "--no-index", "--find-links", "wheels", "anthropic-proxy"
    bin.install_symlink libexec/"bin/anthropic-proxy"
  end

  service do
    run [opt_bin/"anthropic-proxy", "serve"]
    keep_alive crashed: true
    working_dir var/"anthropic-proxy"
    log_path var/"log/anthropic-proxy.log"
    error_log_path var/"log/anthropic-proxy.log"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/anthropic-proxy --version")
    assert_match "demo", shell_output("#{bin}/anthropic-proxy ask hello")
  end
end
