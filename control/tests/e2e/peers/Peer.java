// An echo server and a client that checks every byte, with blocking sockets.
// usage: Peer serve | call URL COUNT
import com.sun.net.httpserver.HttpServer;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.URI;
import java.util.Arrays;

public class Peer {
    static byte[] body(int number) {
        int size = number % 4 == 0 ? 1 + number * 7919 % 300000 : 1 + number * 31 % 2000;
        byte[] bytes = new byte[size];
        for (int place = 0; place < size; place++) {
            int at = place % 65536;
            bytes[place] = (byte) (number * 31 + at * 7 + (at >> 8));
        }
        return bytes;
    }

    static void call(String url, int number) throws Exception {
        byte[] sent = body(number);
        HttpURLConnection connection = (HttpURLConnection) URI.create(url).toURL().openConnection();
        connection.setRequestMethod("POST");
        connection.setDoOutput(true);
        connection.setFixedLengthStreamingMode(sent.length);
        try (OutputStream out = connection.getOutputStream()) {
            out.write(sent);
        }
        byte[] read;
        try (InputStream in = connection.getInputStream()) {
            read = in.readAllBytes();
        }
        if (!Arrays.equals(read, sent)) {
            throw new Exception("call " + number + ": " + read.length + " of " + sent.length + " bytes");
        }
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments[0].equals("serve")) {
            HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
            server.createContext("/", exchange -> {
                byte[] read = exchange.getRequestBody().readAllBytes();
                exchange.sendResponseHeaders(200, read.length);
                try (OutputStream out = exchange.getResponseBody()) {
                    out.write(read);
                }
            });
            server.start();
            System.out.println("listening at " + server.getAddress().getPort());
            return;
        }
        for (int number = 0; number < Integer.parseInt(arguments[2]); number++) {
            call(arguments[1], number);
        }
        System.out.println("all right");
    }
}
